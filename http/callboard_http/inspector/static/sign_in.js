// Asks for an operator's token when the server wants one, as often as it takes.

import { ApiError } from "../playground/api.js";
import { byId } from "../playground/dom.js";

const REFUSED = "This token is not an operator's: its claim `roles` must name the configured operator role.";

export class SignIn {
  constructor(api) {
    this.api = api;
    this.dialog = byId("sign-in");
    byId("sign-out").addEventListener("click", () => this.#signOut());
    this.dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without a token
  }

  /** Returns once the server takes us for an operator. */
  async first() {
    for (;;) {
      const problem = await this.#problem();
      if (problem === null) break;
      this.api.token = await this.#asked(this.api.token ? problem : "");
    }
    byId("sign-out").hidden = !this.api.token;
  }

  /** The token is not accepted any more: start over with another one. */
  async again() {
    if (this.dialog.open) return;
    this.api.token = await this.#asked("The token is not accepted any more.");
    location.reload();
  }

  /** Why the server does not let us in; null if it does, or cannot say at the moment. */
  async #problem() {
    try {
      await this.api.get("sessions?limit=1");
    } catch (error) {
      if (error instanceof ApiError && error.status === 401) return error.message;
      if (error instanceof ApiError && error.status === 404) return REFUSED;
    }
    return null;
  }

  #asked(problem) {
    byId("token-problem").textContent = problem;
    byId("token").value = "";
    this.dialog.showModal();
    byId("token").focus();
    return new Promise((resolve) => {
      byId("sign-in-form").addEventListener("submit", (event) => {
        event.preventDefault();
        this.dialog.close();
        resolve(byId("token").value.trim());
      }, { once: true });
    });
  }

  #signOut() {
    this.api.token = null;
    location.reload();
  }
}
