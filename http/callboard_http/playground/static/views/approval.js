// What a person decides about a call: approve it, approve it with other arguments, or reject it with a reason.

import { freshId, h, pretty } from "../dom.js";

/** Editable arguments, a field for each; `decide` gets the payload of the answer. */
export class ApprovalForm {
  constructor({ name, args, interrupt }, decide) {
    this.given = interrupt.metadata?.args ?? JSON.parse(args || "{}");
    this.decide = decide;
    this.fields = Object.entries(this.given).map(([key, value]) => new Field(key, value));
    this.reason = h("input", { type: "text", id: freshId("reason"), autocomplete: "off" });
    this.problem = h("p", { class: "problem", role: "alert" });
    this.approve = h("button", { type: "submit", class: "primary" }, "Approve");
    this.node = h(
      "form",
      { class: "decision", "aria-label": `Decide about ${name}`, onsubmit: (e) => this.#approve(e), oninput: () => this.#name() },
      h("p", {}, interrupt.message ?? "The agent may do this only if you allow it."),
      h("div", { class: "fields" }, this.fields.map((field) => field.node)),
      h("label", { for: this.reason.id }, "Reason, if you reject (the agent reads it)"),
      this.reason,
      this.problem,
      h("div", { class: "buttons" }, this.approve, h("button", { type: "button", onclick: () => this.#reject() }, "Reject")),
    );
  }

  #name() {
    this.problem.textContent = "";
    this.approve.textContent = this.fields.some((field) => field.edited) ? "Approve with edits" : "Approve";
  }

  #approve(event) {
    event.preventDefault();
    try {
      const editedArgs = Object.fromEntries(this.fields.map((field) => [field.key, field.value]));
      const edited = this.fields.some((field) => field.edited);
      this.#send(edited ? { approved: true, editedArgs } : { approved: true });
    } catch (error) {
      this.problem.textContent = error.message;
    }
  }

  #reject() {
    const reason = this.reason.value.trim();
    this.#send({ approved: false, ...(reason ? { reason } : {}) });
  }

  #send(payload) {
    for (const control of this.node.querySelectorAll("button")) control.disabled = true;
    this.decide(payload);
  }
}

/** For a call whose outcome nobody knows, because its process died inside it. */
export class RetryForm {
  constructor({ interrupt }, decide) {
    const button = (text, outcome) => h("button", { type: "button", onclick: () => decide({ outcome }) }, text);
    const told = interrupt.message ?? "The worker died while this tool ran; nobody knows whether it took effect.";
    const buttons = h("div", { class: "buttons" }, button("Run it again", "retry"), button("Count it as failed", "fail"));
    this.node = h("div", { class: "decision" }, h("p", {}, told), buttons);
  }
}

/** One argument: text, number and yes/no have a control of their own, everything else is edited as JSON. */
class Field {
  constructor(key, value) {
    this.key = key;
    this.given = value;
    this.kind = ["string", "number", "boolean"].includes(typeof value) ? typeof value : "json";
    this.control = control(this.kind, value);
    this.control.id = freshId("argument");
    this.before = this.#text();
    this.node = h("div", { class: "field", "data-kind": this.kind }, h("label", { for: this.control.id }, key), this.control);
  }

  get edited() {
    return this.#text() !== this.before;
  }

  /** The value as JSON has it; throws what the person can mend. */
  get value() {
    if (!this.edited) return this.given;
    if (this.kind === "string") return this.control.value;
    if (this.kind === "boolean") return this.control.checked;
    if (this.kind === "number") return number(this.key, this.control.value);
    return json(this.key, this.control.value);
  }

  #text() {
    return this.kind === "boolean" ? String(this.control.checked) : this.control.value;
  }
}

function control(kind, value) {
  if (kind === "boolean") return h("input", { type: "checkbox", checked: value });
  if (kind === "number") return h("input", { type: "text", inputmode: "decimal", value: String(value), autocomplete: "off" });
  const long = kind === "json" || value.length > 60 || value.includes("\n");
  if (!long) return h("input", { type: "text", value, autocomplete: "off" });
  return h("textarea", { rows: "3", spellcheck: "false" }, kind === "json" ? pretty(value) : value);
}

function number(key, text) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value)) throw new Error(`${key} must be a number.`);
  return value;
}

function json(key, text) {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${key} must be JSON.`);
  }
}
