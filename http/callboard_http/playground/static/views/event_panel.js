// Every event of the session with its id, newest last; a row opens to the event itself.

import { h } from "../dom.js";

const SHOWN = 300;
const DELTAS = new Set(["TEXT_MESSAGE_CONTENT", "TOOL_CALL_ARGS", "REASONING_MESSAGE_CONTENT"]);

export class EventPanel {
  constructor(node) {
    this.deltas = h("input", { type: "checkbox", id: "show-deltas", onchange: () => this.restart() });
    this.told = h("p", { class: "hint" });
    this.list = h("ol", { class: "events", tabindex: "0", "aria-label": "Events" });
    node.append(h("div", { class: "row" }, this.deltas, h("label", { for: "show-deltas" }, "Show deltas")), this.told, this.list);
    this.restart();
  }

  /** Begin again: another session, or another filter. */
  restart() {
    this.next = 1;
    this.list.replaceChildren();
    if (this.conversation) this.draw({ conversation: this.conversation });
  }

  draw({ conversation }) {
    if (this.conversation !== conversation) {
      this.conversation = conversation;
      this.restart();
      return;
    }
    const fresh = conversation.events.filter(({ number }) => number >= this.next).filter((one) => this.#wanted(one));
    this.list.append(...fresh.slice(-SHOWN).map(row));
    while (this.list.children.length > SHOWN) this.list.firstChild.remove();
    this.next = conversation.received + 1;
    this.told.textContent = summary(conversation);
  }

  #wanted({ event }) {
    return this.deltas.checked || !DELTAS.has(event.type);
  }
}

function summary({ received, holes, lastId }) {
  if (!received) return "Events appear here with their ids, which are also the places a cut stream is resumed at.";
  return `${received} events, ${holes ? `${holes} HOLES` : "no hole"}; the cursor stands at ${lastId ?? "the start"}.`;
}

function row({ id, event }) {
  const body = h("pre", { tabindex: "0" });
  const open = ({ target }) => {
    if (target.open) body.textContent = JSON.stringify(event, null, 2);
  };
  const head = h("summary", {}, h("code", { class: "id" }, id ?? "no id"), h("span", { class: "type" }, event.type), h("span", { class: "gist" }, gist(event)));
  return h("li", {}, h("details", { ontoggle: open }, head, body));
}

function gist(event) {
  const { outcome, stepName, toolCallName, delta, code, content } = event;
  const text = outcome?.type ?? stepName ?? toolCallName ?? code ?? (typeof delta === "string" ? delta : content);
  return typeof text === "string" ? text.slice(0, 60) : "";
}
