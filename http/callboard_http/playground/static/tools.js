// The tools that this page offers to the agent: it asks, the page does, and the person sees it happen.

import { PANELS } from "./panels.js";
import { THEMES } from "./theme.js";

const FIELDS = { name: "Name", email: "E-mail", topic: "Topic", message: "Message" };

export const FORM_FIELDS = Object.entries(FIELDS);

/** As `RunAgentInput.tools` wants them. */
export const DECLARED = [
  {
    name: "ui.navigate",
    description: "Show one of the page's panels to the user",
    parameters: object({ panel: { type: "string", enum: PANELS } }, ["panel"]),
  },
  {
    name: "ui.set_theme",
    description: "Change the page's colours",
    parameters: object({ theme: { type: "string", enum: THEMES } }, ["theme"]),
  },
  {
    name: "ui.fill_form",
    description: "Fill in fields of the contact form that the user sees; nothing is sent",
    parameters: object(Object.fromEntries(Object.keys(FIELDS).map((field) => [field, { type: "string" }])), []),
  },
];

/** Runs calls on the page. `page` has showPanel(name), setTheme(name) and fillForm(values). */
export class PageTools {
  constructor(page) {
    this.page = page;
  }

  knows(name) {
    return DECLARED.some((tool) => tool.name === name);
  }

  /** What the call came to; a failure is an answer, too. */
  run(name, text) {
    try {
      return this.#run(name, JSON.parse(text || "{}"));
    } catch (error) {
      return { error: error.message };
    }
  }

  #run(name, args) {
    switch (name) {
      case "ui.navigate":
        this.page.showPanel(oneOf(PANELS, args.panel, "panel"));
        return { shown: args.panel };
      case "ui.set_theme":
        this.page.setTheme(oneOf(THEMES, args.theme, "theme"));
        return { theme: args.theme };
      case "ui.fill_form":
        return { filled: this.page.fillForm(known(args)) };
      default:
        throw new Error(`this page has no tool ${name}`);
    }
  }
}

function oneOf(allowed, value, name) {
  if (!allowed.includes(value)) throw new Error(`${name} must be one of ${allowed.join(", ")}`);
  return value;
}

function known(args) {
  const values = Object.entries(args).filter(([field]) => Object.hasOwn(FIELDS, field));
  if (!values.length) throw new Error(`name at least one of the fields ${Object.keys(FIELDS).join(", ")}`);
  return Object.fromEntries(values.map(([field, value]) => [field, String(value)]));
}

function object(properties, required) {
  return { type: "object", properties, required };
}
