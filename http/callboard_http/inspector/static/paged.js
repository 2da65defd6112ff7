// A list that is read a page at a time: looks repeat what is shown, and a button shows more.

import { h } from "../playground/dom.js";
import { OperatorApi } from "./api.js";

const PAGE = 50;
const MOST = 4; // pages that are read again at each look

export class PagedList {
  constructor(api, path, name, table) {
    this.api = api;
    this.path = path;
    this.name = name; // of the list in the answer
    this.table = table;
    this.pages = 1;
    this.more = h("button", { type: "button", hidden: true, onclick: () => this.#showMore() }, "Show more");
    this.hint = h("p", { class: "hint", hidden: true }, "For more, narrow it with a filter.");
    this.node = h("div", {}, table.node, h("div", { class: "buttons" }, this.more, this.hint));
  }

  /** Read and draw; returns the items. */
  async load(parameters) {
    this.parameters = parameters;
    const items = [];
    let after = "";
    for (let page = 0; page < this.pages; page += 1) {
      const answer = await this.api.get(OperatorApi.path(this.path, { ...parameters, limit: PAGE, after }));
      items.push(...answer[this.name]);
      after = answer.next;
      if (!after) break;
    }
    this.more.hidden = !after || this.pages === MOST;
    this.hint.hidden = !after || this.pages < MOST;
    this.table.draw(items);
    return items;
  }

  async #showMore() {
    this.pages += 1;
    this.more.disabled = true;
    await this.load(this.parameters).catch(() => { this.pages -= 1; });
    this.more.disabled = false;
  }
}
