// One run whole: what it waits for, its steps in time, what was said, who ran it, and who did what to it.

import { h, pretty } from "../../playground/dom.js";
import { chip, code, facts, link, money, number, took, when } from "../format.js";
import { sessionLink } from "../place.js";
import { Table } from "../table.js";
import { timeline } from "../timeline.js";

export class RunView {
  title = "Run";

  constructor(api, place) {
    this.api = api;
    this.id = place.id;
    this.node = h("section", {}, h("p", { class: "hint" }, "Looking …"));
  }

  async load() {
    const detail = await this.api.get(`runs/${encodeURIComponent(this.id)}`);
    if (detail !== this.detail) this.#draw(detail);
    this.detail = detail;
    return `Run ${detail.run.run_id}, ${detail.run.status.replace("_", " ")}`;
  }

  #draw(detail) {
    const open = new Set([...this.node.querySelectorAll("details[open]")].map((node) => node.dataset.key));
    const focused = document.activeElement?.closest("details")?.dataset.key;
    const part = (title, node) => [h("h3", {}, title), node];
    this.node.replaceChildren(
      ...head(detail),
      ...waits(detail),
      ...part("Timeline", timeline(detail)),
      ...part("Messages", messages(detail)),
      ...part("Attempts", attempts(detail)),
      ...part("Audit", audit(detail)),
      ...(detail.cut.length ? [h("p", { class: "hint" }, `Only the newest rows are shown of: ${detail.cut.join(", ")}.`)] : []),
    );
    for (const node of this.node.querySelectorAll("details")) {
      if (open.has(node.dataset.key)) node.open = true;
      if (focused === node.dataset.key) node.querySelector("summary").focus({ preventScroll: true });
    }
  }
}

function head({ run, error_message: problem, deadline, cancel_by: cancelBy, legs }) {
  const paused = run.status === "awaiting_input";
  return [
    h("nav", { class: "crumbs", "aria-label": "Where this is" }, link("#/runs", "Runs"), " / ", link(sessionLink(run.session), run.session_id), " / "),
    h("header", { class: "head" }, h("h2", {}, run.run_id), chip(run.status)),
    run.error_code ? h("p", { class: "callout", "data-tone": "error" }, code(run.error_code), " ", problem ?? "") : "",
    facts([
      ["Agent", run.agent_id],
      ["User", link(`#/sessions?${new URLSearchParams({ user: run.user_id })}`, run.user_id)],
      ["Begun", when(run.created_at)],
      ["Waited", run.started_at && took(run.created_at, run.started_at)],
      ["Took", run.started_at && took(run.started_at, run.ended_at)],
      ["Legs", legs.length],
      ["Model calls", number(run.calls)],
      ["Tokens in", number(run.usage.input_tokens)],
      ["Tokens out", number(run.usage.output_tokens)],
      ["Cost", money(run.usage.cost, run.usage.unpriced_calls)],
      ["Deadline", !run.ended_at && !paused && deadline && when(deadline)],
      ["Ended by force", cancelBy && !run.ended_at && when(cancelBy)],
      ["Internal id", code(run.id)],
    ].map(([name, value]) => [name, value === false ? null : value])),
  ];
}

function waits({ open_calls: calls }) {
  if (!calls.length) return [];
  return [h("h3", {}, "Waits for"), h("ul", { class: "waits" }, calls.map(waiting))];
}

function waiting(call) {
  const decide = call.interrupt_id
    ? h("p", { class: "hint" }, "To decide: ", code(`callboard approvals approve ${call.interrupt_id}`), ", or ", code("reject"))
    : h("p", { class: "hint" }, "The client that offered this tool answers it.");
  return h(
    "li",
    { class: "callout", "data-tone": "attention" },
    h("header", { class: "row" }, h("strong", {}, call.tool_name), chip(call.status), h("span", { class: "hint" }, "since ", when(call.requested_at), ", expires ", when(call.expires_at))),
    call.message ? h("p", {}, call.message) : null,
    h("pre", { class: "block", tabindex: "0", role: "region", "aria-label": `Arguments of ${call.tool_name}` }, pretty(call.args)),
    decide,
  );
}

function messages({ messages }) {
  if (!messages.length) return h("p", { class: "empty" }, "No message belongs to this run yet.");
  return h("ol", { class: "said" }, messages.map((message) =>
    h("li", { "data-role": message.role, class: message.withdrawn ? "withdrawn" : null },
      h("span", { class: "who" }, message.role, message.withdrawn ? ", withdrawn" : ""),
      h("div", { class: "text" }, message.role === "tool" || message.content?.startsWith("[{") ? h("pre", {}, pretty(message.content ?? "")) : message.content ?? "")),
  ));
}

function attempts({ attempts, legs }) {
  const endOf = new Map(legs.map((leg) => [leg.leg, leg.last_event_id]));
  const table = new Table(
    "Attempts",
    [
      ["Epoch", (attempt) => String(attempt.epoch), "number"],
      ["Leg", (attempt) => String(attempt.leg), "number"],
      ["Process", (attempt) => code(attempt.process)],
      ["Outcome", (attempt) => chip(attempt.outcome ?? "running", attempt.outcome === null ? "busy" : undefined)],
      ["Begun", (attempt) => when(attempt.started_at)],
      ["Took", (attempt) => took(attempt.started_at, attempt.ended_at), "number"],
      ["Leg ends with event", (attempt) => code(endOf.get(attempt.leg) ?? "–")],
    ],
    (attempt) => attempt.attempt_id,
    "No worker has taken it yet.",
  );
  table.draw(attempts);
  return table.node;
}

function audit({ audit }) {
  const table = new Table(
    "Audit",
    [
      ["When", (row) => when(row.at)],
      ["Who", (row) => row.actor, "name"],
      ["Did", (row) => code(row.action)],
      ["To", (row) => row.subject, "wide"],
      ["Details", (row) => (Object.keys(row.details).length ? code(JSON.stringify(row.details)) : null), "wide"],
    ],
    (row) => `${row.at} ${row.action} ${row.subject}`,
    "Nobody decided on anything here, and no operator has looked before.",
  );
  table.draw(audit);
  return table.node;
}
