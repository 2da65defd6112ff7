// The state that agent and page share, as the newest snapshot and the changes after it make it.

import { h, pretty } from "../dom.js";

export class StatePanel {
  constructor(node) {
    this.hint = h("p", { class: "hint" });
    this.body = h("pre", { class: "state", tabindex: "0", "aria-label": "Shared state" });
    node.append(this.hint, this.body);
    this.drawn = null;
  }

  draw({ conversation: { state } }) {
    const text = state === undefined ? "" : pretty(state);
    if (text === this.drawn) return;
    this.drawn = text;
    this.hint.textContent = text ? "As STATE_SNAPSHOT and STATE_DELTA left it." : "No run of this session has shared a state yet.";
    this.body.hidden = !text;
    this.body.textContent = text;
  }
}
