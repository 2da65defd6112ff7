// Asks for a bearer token when the server wants one, and says what the server offers.

import { ApiError } from "./api.js";
import { byId } from "./dom.js";

export class SignIn {
  constructor(api) {
    this.api = api;
    this.dialog = byId("sign-in");
    this.out = byId("sign-out");
    this.out.addEventListener("click", () => this.#signOut());
    this.dialog.addEventListener("cancel", (event) => event.preventDefault()); // nothing works without a token
  }

  /** Agents and examples, once the server accepts who we are; asks as often as it takes. */
  async first() {
    for (let problem = ""; ; ) {
      try {
        const offer = await this.api.get(new URL("playground/offer", document.baseURI).href);
        this.out.hidden = !this.api.token;
        return offer;
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 401) throw error;
        problem = this.api.token ? error.message : problem;
      }
      this.api.token = await this.#asked(problem);
    }
  }

  /** The token is not accepted any more: start over with another one. */
  async again() {
    if (this.dialog.open) return;
    this.api.token = await this.#asked("The token is not accepted any more.");
    location.reload();
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
