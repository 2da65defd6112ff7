// Everybody's sessions, the one that changed last first; what was said in them is a click away, and that click is noted.

import { h } from "../../playground/dom.js";
import { filters } from "../filters.js";
import { chip, link, money, number, when } from "../format.js";
import { PagedList } from "../paged.js";
import { sessionLink } from "../place.js";
import { Table } from "../table.js";

const FIELDS = [
  { name: "status", label: "Status", options: [["", "any"], ["active", "active"], ["awaiting_input", "awaiting input"], ["idle", "idle"], ["deleted", "deleted"]] },
  { name: "user", label: "User", placeholder: "everybody" },
];

export class SessionsView {
  title = "Sessions";

  constructor(api, place) {
    this.place = place;
    const table = new Table(
      "Sessions",
      [
        ["Session", (session) => link(sessionLink(session.id), session.session_id, { class: "name" })],
        ["Status", (session) => chip(session.status)],
        ["User", (session) => session.user_id, "name"],
        ["Changed", (session) => when(session.updated_at)],
        ["Begun", (session) => when(session.created_at)],
        ["Messages", (session) => number(session.message_count), "number"],
        ["Tokens", (session) => number(session.usage.total_tokens), "number"],
        ["Cost", (session) => money(session.usage.cost, session.usage.unpriced_calls), "number"],
      ],
      (session) => session.id,
      "No session is like that.",
    );
    this.list = new PagedList(api, "sessions", "sessions", table);
    this.node = h("section", { "aria-labelledby": "view-title" }, h("h2", { id: "view-title" }, this.title), filters(place, FIELDS), this.list.node);
  }

  async load() {
    const sessions = await this.list.load(Object.fromEntries(this.place.filters));
    return `${sessions.length} sessions`;
  }
}
