// Signs in if the server wants that, and says what the server offers.

import { ApiError } from "./api.js";
import { TokenDialog } from "./token_dialog.js";

const WORDS = {
  title: "This server wants to know who you are",
  label: "Bearer token (JWT)",
  hint: "It stays in this tab, and is gone when the tab closes.",
};

export class SignIn extends TokenDialog {
  constructor(api) {
    super(api, WORDS);
  }

  /** Agents and examples, once the server accepts who we are; asks as often as it takes. */
  async first() {
    for (let problem = ""; ; ) {
      try {
        const offer = await this.api.get(new URL("playground/offer", document.baseURI).href);
        this.accepted();
        return offer;
      } catch (error) {
        if (!(error instanceof ApiError) || error.status !== 401) throw error;
        problem = this.api.token ? error.message : problem;
      }
      await this.ask(problem);
    }
  }
}
