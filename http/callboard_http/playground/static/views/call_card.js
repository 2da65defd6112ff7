// A tool call: its arguments, whom it waits for, and what it came to.

import { h, pretty } from "../dom.js";
import { ApprovalForm, RetryForm } from "./approval.js";

const STATES = {
  decide: ["needs your decision", "attention"],
  browser: ["waits for the page", "attention"],
  answered: ["answered", "busy"],
  abandoned: ["given up", "muted"],
};

export class CallCard {
  constructor(item, acts) {
    this.acts = acts;
    this.chip = h("span", { class: "chip" });
    this.args = h("pre", { tabindex: "0", "aria-label": `Arguments of ${item.name}` });
    this.result = h("pre", { tabindex: "0", "aria-label": `Result of ${item.name}` });
    this.resultPart = h("div", { class: "result", hidden: true }, h("span", { class: "label" }, "Result"), this.result);
    this.argsLabel = h("span", { class: "label" });
    this.argsPart = h("div", { class: "args" }, this.argsLabel, this.args);
    this.form = h("div", {});
    this.formFor = null;
    const head = h("header", {}, h("code", { class: "tool" }, item.name), this.chip);
    const parts = [head, this.argsPart, this.form, this.resultPart];
    this.card = h("article", { class: "call", tabindex: "-1", "aria-label": `Tool call ${item.name}` }, parts);
    this.node = h("li", { class: "call-item" }, this.card);
  }

  update(item) {
    const [text, tone] = state(item);
    this.chip.textContent = text;
    this.chip.dataset.tone = tone;
    this.card.dataset.tone = tone;
    const edited = item.decided?.editedArgs;
    this.argsLabel.textContent = edited ? "Arguments, as you changed them" : "Arguments";
    this.args.textContent = item.streaming ? item.args : pretty(edited ?? item.args);
    this.resultPart.hidden = item.result === null;
    this.result.textContent = pretty(item.result ?? "");
    this.#drawForm(item);
  }

  focus() {
    this.card.focus();
    this.card.scrollIntoView({ block: "nearest" });
  }

  /** A form stays as it is while the person works in it. */
  #drawForm(item) {
    const wanted = item.wait === "decide" ? item.interrupt.id : item.wait;
    if (wanted === this.formFor) return;
    this.formFor = wanted;
    const form = this.#formOf(item);
    this.argsPart.hidden = form instanceof ApprovalForm;
    this.form.replaceChildren(...(form ? [form.node] : []));
  }

  #formOf(item) {
    if (item.wait === "browser") return new BrowserForm(() => this.acts.runHere(item));
    if (item.wait !== "decide") return null;
    const decide = (payload) => this.acts.decide(item, payload);
    return item.interrupt.reason === "callboard:tool_outcome_unknown"
      ? new RetryForm(item, decide)
      : new ApprovalForm(item, decide);
  }
}

/** For a call of this page's tools whose own tab is gone. */
class BrowserForm {
  constructor(runHere) {
    const button = h("button", { type: "button", onclick: runHere }, "Run it in this tab");
    this.node = h("div", { class: "decision" }, h("p", {}, "The tab that asked has not answered yet."), button);
  }
}

function state({ streaming, wait, result }) {
  if (result !== null) return isError(result) ? ["failed", "error"] : ["done", "good"];
  if (wait) return STATES[wait];
  return streaming ? ["calling…", "busy"] : ["running", "busy"];
}

const isError = (result) => result.startsWith("Error:");
