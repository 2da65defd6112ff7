// The user's sessions, the one that changed last first.

import { sessionPath } from "../api.js";
import { h } from "../dom.js";
import { chip } from "./run_panel.js";

const PAGE = 50;

export class SessionList {
  constructor(list, api, failed) {
    this.list = list;
    this.api = api;
    this.failed = failed;
    this.current = null;
    this.drawn = "";
  }

  async refresh() {
    try {
      const { sessions } = await this.api.get(`sessions?limit=${PAGE}`);
      this.draw(sessions);
    } catch (error) {
      if (!(error instanceof TypeError)) this.failed(error); // the next look comes soon
    }
  }

  draw(sessions) {
    const text = JSON.stringify([this.current, sessions]);
    if (text === this.drawn) return;
    this.drawn = text;
    const focused = document.activeElement?.closest("[data-session]")?.dataset.session;
    const rows = sessions.map((session) => this.#row(session));
    this.list.replaceChildren(...(rows.length ? rows : [h("li", { class: "hint" }, "No sessions yet.")]));
    if (focused) this.list.querySelector(`[data-session="${CSS.escape(focused)}"] a`)?.focus();
  }

  #row({ session_id: id, title, status, message_count: count, updated_at: at }) {
    const link = h(
      "a",
      { href: `#${encodeURIComponent(id)}`, "aria-current": id === this.current ? "page" : null },
      h("span", { class: "name" }, title ?? id),
      h("span", { class: "meta" }, `${count} messages · ${when(at)}`),
      status === "idle" ? null : chip(status),
    );
    const remove = h("button", { type: "button", class: "quiet", "aria-label": `Delete session ${title ?? id}`, onclick: () => this.#delete(id) }, "✕");
    return h("li", { "data-session": id }, link, remove);
  }

  async #delete(id) {
    if (!confirm(`Delete session ${id} with everything in it? Its runs are ended, and its id is not used again.`)) return;
    try {
      await this.api.delete(sessionPath(id));
      if (id === this.current) location.hash = "";
      await this.refresh();
    } catch (error) {
      this.failed(error);
    }
  }
}

function when(text) {
  const date = new Date(text);
  const today = date.toDateString() === new Date().toDateString();
  return today ? date.toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }) : date.toLocaleDateString();
}
