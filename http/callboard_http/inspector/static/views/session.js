// One session: where its state stands, who writes it, and its runs.

import { h } from "../../playground/dom.js";
import { chip, code, facts, link, money, number, when } from "../format.js";
import { OperatorApi } from "../api.js";
import { runLink } from "../place.js";
import { runTable } from "./runs.js";

const SHOWN = 100; // runs

export class SessionView {
  title = "Session";

  constructor(api, place) {
    this.api = api;
    this.id = place.id;
    this.head = h("div", {});
    this.table = runTable({ ofSession: true });
    this.more = h("p", { class: "hint", hidden: true }, `The newest ${SHOWN} are shown.`);
    this.node = h("section", {}, this.head, h("h3", {}, "Runs"), this.table.node, this.more);
  }

  async load() {
    const detail = await this.api.get(`sessions/${encodeURIComponent(this.id)}`);
    this.#draw(detail);
    const { runs, next } = await this.api.get(OperatorApi.path("runs", { session: this.id, limit: SHOWN }));
    this.table.draw(runs);
    this.more.hidden = !next;
    return `Session ${detail.session.session_id}, ${detail.session.status.replace("_", " ")}, ${runs.length} runs`;
  }

  #draw(detail) {
    const text = JSON.stringify(detail);
    if (text === this.drawn) return;
    this.drawn = text;
    const { session } = detail;
    this.head.replaceChildren(
      h("nav", { class: "crumbs", "aria-label": "Where this is" }, link("#/sessions", "Sessions"), " / "),
      h("header", { class: "head" }, h("h2", {}, detail.title ?? session.session_id), chip(session.status)),
      facts([
        ["Session", code(session.session_id, session.id)],
        ["User", link(`#/sessions?${new URLSearchParams({ user: session.user_id })}`, session.user_id)],
        ["Changed", when(session.updated_at)],
        ["Begun", when(session.created_at)],
        ["Deleted", detail.deleted_at && when(detail.deleted_at)],
        ["Messages", number(session.message_count)],
        ["Tokens in", number(session.usage.input_tokens)],
        ["Tokens out", number(session.usage.output_tokens)],
        ["Cost", money(session.usage.cost, session.usage.unpriced_calls)],
      ]),
      facts([
        ["Epoch", number(detail.epoch)],
        ["Last event", detail.last_event_id && code(detail.last_event_id)],
        ["Active run", detail.active_run && link(runLink(detail.active_run), "open")],
        ["Queued runs", detail.queued_runs.length || null],
        ["Partition", detail.partition],
        ["Written by", code(detail.partition_owner ?? "nobody yet")],
        ["Internal id", code(session.id)],
      ]),
    );
  }
}
