// A table whose rows stay the same elements while their content does, so that focus, selection and scrolling survive.

import { arrange, h } from "../playground/dom.js";

export class Table {
  /** `columns` are [heading, cell of an item, class?]; the first one is the row's heading; `key` names an item. */
  constructor(caption, columns, key, nothing) {
    this.columns = columns;
    this.key = key;
    this.drawn = new Map(); // key -> {text, node}
    this.body = h("tbody");
    this.empty = h("p", { class: "empty", hidden: true }, nothing);
    const heads = columns.map(([name, , kind]) => h("th", { scope: "col", class: kind ?? null }, name));
    this.table = h("table", {}, h("caption", { class: "sr-only" }, caption), h("thead", {}, h("tr", {}, heads)), this.body);
    this.node = h("div", { class: "sheet" }, this.table, this.empty);
  }

  draw(items) {
    const focused = document.activeElement?.closest("tr[data-key]")?.dataset.key;
    const drawn = new Map(items.map((item) => [String(this.key(item)), this.#row(item)]));
    this.drawn = drawn;
    arrange(this.body, [...drawn.values()].map(({ node }) => node));
    this.table.hidden = !items.length;
    this.empty.hidden = items.length > 0;
    if (focused && !this.body.contains(document.activeElement)) drawn.get(focused)?.node.querySelector("a, summary")?.focus();
  }

  #row(item) {
    const key = String(this.key(item));
    const text = JSON.stringify(item);
    const known = this.drawn.get(key);
    if (known?.text === text) return known;
    const cells = this.columns.map(([name, cell, kind], index) =>
      h(index ? "td" : "th", { scope: index ? null : "row", class: kind ?? null, "data-label": name }, h("div", {}, cell(item) ?? "–")),
    );
    return { text, node: h("tr", { "data-key": key }, cells) };
  }
}
