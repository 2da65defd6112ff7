// The dialog that asks for a bearer token, and the button that forgets it: they are the same on every page.

import { byId, h } from "./dom.js";

export class TokenDialog {
  /** `title`, `label` and `hint` are the page's own words. */
  constructor(api, { title, label, hint }) {
    this.api = api;
    this.out = byId("sign-out");
    this.out.addEventListener("click", () => this.#signOut());
    this.field = h("input", {
      id: "token",
      type: "password",
      autocomplete: "off",
      spellcheck: "false",
      required: true,
      "aria-describedby": "token-hint token-problem",
    });
    this.problem = h("p", { class: "problem", id: "token-problem", role: "alert" });
    this.form = h(
      "form",
      {},
      h("h2", { id: "sign-in-title" }, title),
      h("label", { for: "token" }, label),
      this.field,
      h("p", { class: "hint", id: "token-hint" }, hint),
      this.problem,
      h("div", { class: "buttons" }, h("button", { type: "submit", class: "primary" }, "Continue")),
    );
    const stay = (event) => event.preventDefault(); // nothing works without a token
    this.dialog = h("dialog", { id: "sign-in", "aria-labelledby": "sign-in-title", oncancel: stay }, this.form);
    document.body.append(this.dialog);
  }

  /** Asks once, and uses what is typed from then on; `problem` says what was wrong with the token before. */
  async ask(problem) {
    this.problem.textContent = problem;
    this.field.value = "";
    this.dialog.showModal();
    this.field.focus();
    this.api.token = await this.#typed();
  }

  /** The server lets us in; who has a token may sign out. */
  accepted() {
    this.out.hidden = !this.api.token;
  }

  /** The token is not accepted any more: start over with another one. */
  async again() {
    if (this.dialog.open) return;
    await this.ask("The token is not accepted any more.");
    location.reload();
  }

  #typed() {
    return new Promise((resolve) => {
      this.form.addEventListener("submit", (event) => {
        event.preventDefault();
        this.dialog.close();
        resolve(this.field.value.trim());
      }, { once: true });
    });
  }

  #signOut() {
    this.api.token = null;
    location.reload();
  }
}
