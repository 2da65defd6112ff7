// Where messages are written: Enter sends, Shift+Enter breaks the line, Escape cancels the run.

import { byId } from "../dom.js";

export class Composer {
  /** `acts` has send(text, strategy), which rejects when the message was not taken, failed(error) and cancel(). */
  constructor(acts) {
    this.acts = acts;
    this.field = byId("message");
    this.button = byId("cancel");
    this.sending = false;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#send();
    });
    this.button.addEventListener("click", () => acts.cancel());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    this.field.addEventListener("input", () => this.#fit());
  }

  /** Whether focus may be moved elsewhere without disturbing anybody. */
  get idle() {
    const active = document.activeElement;
    return !this.field.value && (active === document.body || active === this.field);
  }

  fill(text) {
    this.field.value = text;
    this.#fit();
    this.field.focus();
  }

  draw({ activeRun }) {
    if (activeRun === null && document.activeElement === this.button) this.field.focus();
    this.button.disabled = activeRun === null;
  }

  #key(event) {
    if (event.isComposing) return; // Enter chooses a word of an input method
    if (event.key === "Enter" && !event.shiftKey) {
      event.preventDefault();
      this.#send();
    } else if (event.key === "Escape") {
      this.acts.cancel();
    }
  }

  /** What was typed is given back when the server did not take it. */
  async #send() {
    const text = this.field.value.trim();
    if (!text || this.sending) return;
    this.sending = true;
    this.fill("");
    try {
      await this.acts.send(text, byId("strategy").value);
    } catch (error) {
      if (!this.field.value) this.fill(text);
      this.acts.failed(error);
    } finally {
      this.sending = false;
    }
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }
}
