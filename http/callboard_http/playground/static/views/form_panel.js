// A contact form for the agent to fill in: shows that a tool can act on the page in front of the person.

import { h } from "../dom.js";
import { FORM_FIELDS } from "../tools.js";

const GLOW = 1500; // milliseconds that a filled field stays marked

export class FormPanel {
  constructor(node) {
    this.controls = new Map(FORM_FIELDS.map(([name]) => [name, control(name)]));
    const fields = FORM_FIELDS.map(([name, label]) =>
      h("div", { class: "field" }, h("label", { for: `form-${name}` }, label), this.controls.get(name)),
    );
    const hint = h("p", { class: "hint" }, "The agent can fill this in with its tool ui.fill_form. Nothing is sent anywhere.");
    node.append(hint, h("form", { class: "sample", onsubmit: (event) => event.preventDefault() }, fields));
  }

  /** Fill in the fields and say which ones those were. */
  fill(values) {
    for (const [name, value] of Object.entries(values)) {
      const field = this.controls.get(name);
      field.value = value;
      field.classList.add("filled");
      setTimeout(() => field.classList.remove("filled"), GLOW);
    }
    return Object.keys(values);
  }
}

function control(name) {
  const id = `form-${name}`;
  return name === "message" ? h("textarea", { id, rows: "4" }) : h("input", { id, type: "text", autocomplete: "off" });
}
