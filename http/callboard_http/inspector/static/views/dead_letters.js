// Messages that nobody could handle. Looking takes them out of the queue and puts them back, so it is done when asked.

import { h } from "../../playground/dom.js";
import { code, link, number, when } from "../format.js";
import { letterLink } from "../place.js";
import { Table } from "../table.js";

const SHOWN = 100;

export class DeadLettersView {
  title = "Dead letters";
  repeats = false;

  constructor(api) {
    this.api = api;
    this.count = h("span", { class: "hint" });
    this.again = h("button", { type: "button", onclick: () => this.#again() }, "Look again");
    this.table = new Table(
      "Dead letters",
      [
        ["Type", (letter) => link(letterLink(letter.id), letter.type, { class: "name" })],
        ["Why", (letter) => letter.reason, "wide"],
        ["From", (letter) => code(letter.queue || "unknown")],
        ["Died", (letter) => when(letter.died_at)],
        ["Deaths", (letter) => number(letter.deaths), "number"],
        ["Bytes", (letter) => number(letter.bytes), "number"],
        ["Session", (letter) => (letter.session ? code(letter.session, letter.session) : null), "name"],
        ["Id", (letter) => code(letter.id)],
      ],
      (letter) => letter.id,
      "There are no dead letters.",
    );
    this.node = h(
      "section",
      { "aria-labelledby": "view-title" },
      h("div", { class: "row between" }, h("h2", { id: "view-title" }, this.title), h("div", { class: "row" }, this.count, this.again)),
      h("p", { class: "hint" }, "They stay where they are. ", code("callboard dlq replay"), " sends them again, ", code("callboard dlq drop"), " deletes them."),
      this.table.node,
    );
  }

  async load() {
    const { letters, total } = await this.api.get(`dead-letters?limit=${SHOWN}`);
    this.table.draw(distinct(letters));
    this.count.textContent = total > letters.length ? `the oldest ${letters.length} of ${number(total)}` : "";
    return `${total} dead letters`;
  }

  async #again() {
    this.again.disabled = true;
    await this.load().catch((error) => { this.count.textContent = error.message; });
    this.again.disabled = false;
  }
}

/** Copies of one message share their id; a table shows one row for them. */
function distinct(letters) {
  return [...new Map(letters.map((letter) => [letter.id, letter])).values()];
}
