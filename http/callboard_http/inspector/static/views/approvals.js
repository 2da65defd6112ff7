// What waits for a person's decision, longest first.

import { h } from "../../playground/dom.js";
import { chip, code, link, when } from "../format.js";
import { PagedList } from "../paged.js";
import { runLink, sessionLink } from "../place.js";
import { Table } from "../table.js";

export class ApprovalsView {
  title = "Approvals";

  constructor(api) {
    const table = new Table(
      "Open approvals",
      [
        ["Tool", (open) => link(runLink(open.run), open.tool_name, { class: "name" })],
        ["Asks for", (open) => chip(open.status === "OUTCOME_UNKNOWN" ? "outcome unknown" : "approval", "attention")],
        ["Waits since", (open) => when(open.requested_at)],
        ["Expires", (open) => when(open.expires_at)],
        ["Session", (open) => link(sessionLink(open.session), open.session_id, { class: "name" })],
        ["User", (open) => open.user_id, "name"],
        ["Agent", (open) => open.agent_id, "name"],
        ["Interrupt", (open) => code(open.interrupt_id)],
      ],
      (open) => open.interrupt_id,
      "Nothing waits for a decision.",
    );
    this.list = new PagedList(api, "approvals", "approvals", table);
    this.node = h(
      "section",
      { "aria-labelledby": "view-title" },
      h("h2", { id: "view-title" }, this.title),
      h("p", { class: "hint" }, "Who may decide does so where the session is, or with ", code("callboard approvals approve"), " and ", code("reject"), ". The arguments are in the run."),
      this.list.node,
    );
  }

  async load() {
    const open = await this.list.load({});
    return open.length ? `${open.length} decisions are open` : "Nothing waits for a decision.";
  }
}
