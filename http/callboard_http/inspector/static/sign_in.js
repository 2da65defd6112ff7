// Signs in as an operator if the server wants that.

import { ApiError } from "../playground/api.js";
import { TokenDialog } from "../playground/token_dialog.js";

const WORDS = {
  title: "The inspector is for operators",
  label: "Bearer token (JWT) with the operator role",
  hint: "It stays in this tab, and is gone when the tab closes. Every look at what users wrote is noted in the audit log.",
};
const REFUSED = "This token is not an operator's: its claim `roles` must name the configured operator role.";

export class SignIn extends TokenDialog {
  constructor(api) {
    super(api, WORDS);
  }

  /** Returns once the server takes us for an operator; asks as often as it takes. */
  async first() {
    for (;;) {
      const problem = await this.#problem();
      if (problem === null) break;
      await this.ask(this.api.token ? problem : "");
    }
    this.accepted();
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
}
