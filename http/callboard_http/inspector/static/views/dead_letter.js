// One dead letter whole.

import { h, pretty } from "../../playground/dom.js";
import { chip, code, facts, link, number, when } from "../format.js";

export class DeadLetterView {
  title = "Dead letter";
  repeats = false;

  constructor(api, place) {
    this.api = api;
    this.id = place.id;
    this.node = h("section", {}, h("p", { class: "hint" }, "Looking …"));
  }

  async load() {
    const { letter, headers, body } = await this.api.get(`dead-letters/${encodeURIComponent(this.id)}`);
    this.node.replaceChildren(
      h("nav", { class: "crumbs", "aria-label": "Where this is" }, link("#/dead-letters", "Dead letters"), " / "),
      h("header", { class: "head" }, h("h2", {}, letter.type), chip(letter.reason, "error")),
      facts([
        ["Id", code(letter.id)],
        ["From", code(letter.queue || "unknown")],
        ["Died", when(letter.died_at)],
        ["Deaths", number(letter.deaths)],
        ["Bytes", number(letter.bytes)],
        ["Session", letter.session && code(letter.session)],
      ]),
      h("h3", {}, "Headers"),
      facts(Object.entries(headers).map(([name, value]) => [name, code(String(value))])),
      h("h3", {}, "Body"),
      h("pre", { class: "block", tabindex: "0", role: "region", "aria-label": "Body" }, pretty(body)),
    );
    return `Dead letter ${letter.type}`;
  }
}
