// Deliveries to webhooks, newest first: what each URL was told of, how often, and what it answered last.

import { h } from "../../playground/dom.js";
import { filters } from "../filters.js";
import { chip, code, link, number, when } from "../format.js";
import { PagedList } from "../paged.js";
import { runLink } from "../place.js";
import { Table } from "../table.js";

const FIELDS = [
  { name: "status", label: "Status", options: [["", "any"], ["open,given_up", "not delivered"], ["open", "open"], ["given_up", "given up"], ["delivered", "delivered"]] },
];
const TONES = { open: "busy", given_up: "error" };

export class WebhooksView {
  title = "Webhooks";

  constructor(api, place) {
    this.place = place;
    const table = new Table(
      "Deliveries",
      [
        ["Event", (one) => one.type, "name"],
        ["URL", (one) => code(one.url), "wide"],
        ["Status", (one) => chip(one.status, TONES[one.status])],
        ["Attempts", (one) => number(one.attempts), "number"],
        ["Answer", (one) => [one.last_status, one.last_error].filter(Boolean).join(" ") || null, "wide"],
        ["Run", (one) => (one.run_id ? link(runLink(one.run), one.run_id, { class: "name" }) : null)],
        ["User", (one) => one.user_id, "name"],
        ["Since", (one) => when(one.created_at)],
        ["Next try", (one) => when(one.next_try)],
      ],
      (one) => one.id,
      "Nothing was delivered, or is to be.",
    );
    this.list = new PagedList(api, "webhooks", "deliveries", table);
    this.node = h("section", { "aria-labelledby": "view-title" }, h("h2", { id: "view-title" }, this.title), filters(place, FIELDS), this.list.node);
  }

  async load() {
    const deliveries = await this.list.load(Object.fromEntries(this.place.filters));
    return `${deliveries.length} deliveries`;
  }
}
