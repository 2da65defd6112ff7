// Everybody's runs, newest first.

import { h } from "../../playground/dom.js";
import { filters } from "../filters.js";
import { chip, code, link, money, number, took, when } from "../format.js";
import { PagedList } from "../paged.js";
import { runLink, sessionLink } from "../place.js";
import { Table } from "../table.js";

const STATUSES = ["queued", "running", "awaiting_input", "cancelling", "succeeded", "failed", "cancelled"];
const FIELDS = [
  { name: "status", label: "Status", options: [["", "any"], ["queued,running,awaiting_input,cancelling", "not ended"], ...STATUSES.map((status) => [status, status.replace("_", " ")])] },
  { name: "agent", label: "Agent", placeholder: "any" },
  { name: "newer_than", label: "Begun within", options: [["", "all time"], ["10m", "10 minutes"], ["1h", "an hour"], ["1d", "a day"], ["7d", "a week"]] },
  { name: "older_than", label: "Older than", options: [["", "any age"], ["1m", "a minute"], ["10m", "10 minutes"], ["1h", "an hour"], ["1d", "a day"]] },
];

export class RunsView {
  title = "Runs";

  constructor(api, place) {
    this.place = place;
    this.list = new PagedList(api, "runs", "runs", runTable());
    this.node = h("section", { "aria-labelledby": "view-title" }, h("h2", { id: "view-title" }, this.title), filters(place, FIELDS), this.list.node);
  }

  async load() {
    const runs = await this.list.load(Object.fromEntries(this.place.filters));
    return `${runs.length} runs`;
  }
}

/** Runs with their session, or without where it is known. */
export function runTable({ ofSession = false } = {}) {
  const whose = [
    ["Session", (run) => link(sessionLink(run.session), run.session_id, { class: "name" })],
    ["User", (run) => run.user_id, "name"],
  ];
  return new Table(
    "Runs",
    [
      ["Run", (run) => link(runLink(run.id), run.run_id, { class: "name" })],
      ["Status", status],
      ...(ofSession ? [] : whose),
      ["Agent", (run) => run.agent_id, "name"],
      ["Begun", (run) => when(run.created_at)],
      ["Took", (run) => took(run.started_at, run.ended_at), "number"],
      ["Calls", (run) => number(run.calls), "number"],
      ["Tokens", (run) => number(run.usage.total_tokens), "number"],
      ["Cost", (run) => money(run.usage.cost, run.usage.unpriced_calls), "number"],
    ],
    (run) => run.id,
    ofSession ? "This session has no runs." : "No run is like that.",
  );
}

function status(run) {
  return h("span", { class: "row" }, chip(run.status), run.error_code ? code(run.error_code) : null);
}
