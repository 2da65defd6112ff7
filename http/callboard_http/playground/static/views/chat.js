// The conversation: one list item per message, reasoning, tool call or notice, changed in place as it grows.

import { arrange, h } from "../dom.js";
import { markdown } from "../markdown.js";
import { CallCard } from "./call_card.js";

const NEAR = 80; // pixels from the end within which the list keeps scrolling with it

export class ChatView {
  /** `acts` has decide(call, payload) and runHere(call). */
  constructor(list, scroller, acts) {
    this.list = list;
    this.scroller = scroller;
    this.acts = acts;
    this.parts = new Map(); // item id -> what draws it
  }

  clear() {
    this.parts.clear();
    this.list.replaceChildren();
  }

  draw(conversation) {
    const follows = this.#atEnd();
    for (const id of conversation.changed) this.#drawItem(conversation.items.get(id), id);
    if (conversation.changed.size) this.#arrange(conversation);
    conversation.changed.clear();
    if (follows) this.toEnd();
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  card(id) {
    return this.parts.get(id);
  }

  #drawItem(item, id) {
    if (!item) {
      this.parts.delete(id);
      return;
    }
    if (!this.parts.has(id)) this.parts.set(id, new PARTS[item.kind](item, this.acts));
    this.parts.get(id).update(item);
  }

  #arrange(conversation) {
    arrange(this.list, [...conversation.items.keys()].map((id) => this.parts.get(id).node));
  }

  #atEnd() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    return scrollHeight - scrollTop - clientHeight < NEAR;
  }
}

class Message {
  constructor(item) {
    this.body = h("div", { class: "text" });
    this.note = h("span", { class: "note" });
    const who = h("span", { class: "who" }, item.role === "user" ? "You" : "Assistant");
    this.node = h("li", { class: "message", "data-role": item.role }, who, this.body, this.note);
  }

  update({ role, text, streaming, waiting, withdrawn }) {
    this.node.classList.toggle("streaming", streaming === true);
    this.node.classList.toggle("withdrawn", withdrawn === true);
    this.body.replaceChildren(...(role === "user" ? [text] : markdown(text)));
    this.note.textContent = waiting ? "queued" : withdrawn ? "broke off; not part of the conversation" : "";
  }
}

class Reasoning {
  constructor() {
    this.text = h("div", { class: "text" });
    this.summary = h("summary", {});
    this.node = h("li", { class: "reasoning" }, h("details", {}, this.summary, this.text));
  }

  update({ text, streaming }) {
    this.node.classList.toggle("streaming", streaming === true);
    this.summary.textContent = streaming ? "Thinking…" : "Reasoning";
    this.text.textContent = text;
  }
}

class Notice {
  constructor({ tone }) {
    this.node = h("li", { class: "notice", "data-tone": tone });
  }

  update({ text }) {
    this.node.textContent = text;
  }
}

const PARTS = { message: Message, reasoning: Reasoning, notice: Notice, call: CallCard };
