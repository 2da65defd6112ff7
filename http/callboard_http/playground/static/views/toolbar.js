// What stands over and under the conversation: the session's name, the stream's state, and problems.

import { byId, h } from "../dom.js";

const STATES = {
  idle: ["idle", "muted"],
  connecting: ["connecting", "busy"],
  live: ["live", "good"],
  waiting: ["reconnecting", "attention"],
  dropped: ["dropped", "attention"],
};

export class Toolbar {
  constructor({ stream }) {
    this.chip = byId("connection");
    this.button = byId("stream");
    this.button.addEventListener("click", stream);
    this.banner = byId("banner");
    this.problem = "";
  }

  tell(problem) {
    this.problem = problem;
    this.#banner();
  }

  clear() {
    this.tell("");
  }

  draw({ threadId, connection, busy, conversation }) {
    byId("session-name").textContent = threadId;
    byId("session-name").title = threadId;
    byId("second-tab").href = `#${encodeURIComponent(threadId)}`;
    const [text, tone] = STATES[connection];
    this.chip.textContent = text;
    this.chip.dataset.tone = tone;
    const dropped = connection === "dropped";
    this.button.hidden = !dropped && !busy;
    this.button.textContent = dropped ? "Resume" : "Drop stream";
    this.dropped = dropped ? (conversation.lastId ?? "the start") : "";
    this.#banner();
  }

  #banner() {
    const told = this.problem || (this.dropped && `The stream was dropped at ${this.dropped}. The run goes on; Resume continues from there.`);
    this.banner.hidden = !told;
    this.banner.dataset.tone = this.problem ? "error" : "attention";
    if (this.banner.textContent !== told) this.banner.replaceChildren(h("span", {}, told || ""));
  }
}
