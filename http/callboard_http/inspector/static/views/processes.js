// Who runs, and who writes which partition.

import { arrange, h } from "../../playground/dom.js";
import { chip, code, number, when } from "../format.js";
import { Table } from "../table.js";

export class ProcessesView {
  title = "Processes";

  constructor(api) {
    this.api = api;
    this.table = new Table(
      "Processes",
      [
        ["Process", (process) => code(process.id)],
        ["Kind", (process) => process.kind],
        ["State", (process) => (process.alive ? chip("alive", "good") : chip("silent", "error"))],
        ["Last beat", (process) => when(process.beat_at)],
        ["Started", (process) => when(process.started_at)],
        ["Host", (process) => process.host, "name"],
        ["Pid", (process) => (process.pid === null ? null : String(process.pid)), "number"],
        ["At work", (process) => (process.kind === "worker" ? number(process.attempts.length) : null), "number"],
        ["Slots free", (process) => (process.kind === "worker" ? number(process.slots) : null), "number"],
      ],
      (process) => process.id,
      "No process was heard of within the last hour.",
    );
    this.grid = h("ol", { class: "partitions", "aria-label": "Partitions" });
    this.legend = h("p", { class: "hint" });
    this.drawn = new Map();
    this.node = h(
      "section",
      { "aria-labelledby": "view-title" },
      h("h2", { id: "view-title" }, this.title),
      this.table.node,
      h("h3", {}, "Partitions"),
      h("p", { class: "hint" }, "Who took each one last, and its epoch: each taking fences out the owner before. A partition is taken with its first command; a dead owner is replaced with the next one."),
      this.grid,
      this.legend,
    );
  }

  async load() {
    const [{ processes }, { partitions }] = await Promise.all([this.api.get("processes"), this.api.get("partitions")]);
    this.table.draw(processes.map(({ silent, ...process }) => process));
    arrange(this.grid, partitions.map((partition) => this.#cell(partition)));
    this.legend.replaceChildren(...legend(partitions));
    const alive = processes.filter((process) => process.alive).length;
    return `${alive} processes are alive`;
  }

  #cell(partition) {
    const text = JSON.stringify(partition);
    const known = this.drawn.get(partition.partition);
    if (known?.text === text) return known.node;
    const node = cell(partition);
    this.drawn.set(partition.partition, { text, node });
    return node;
  }
}

function cell({ partition, owner, partition_epoch: epoch, owner_alive: alive }) {
  const state = owner === null ? "never taken" : alive ? "owner alive" : "owner silent";
  const tone = owner === null ? "muted" : alive ? "good" : "error";
  return h(
    "li",
    { "data-tone": tone, title: owner ? `${owner}, epoch ${epoch}, ${state}` : state },
    h("span", { class: "sr-only" }, "partition "),
    h("b", {}, String(partition)),
    h("span", { class: "epoch" }, owner === null ? "–" : `e${epoch}`),
    h("span", { class: "sr-only" }, `, ${state}`),
  );
}

function legend(partitions) {
  const owners = Map.groupBy ? Map.groupBy(partitions, ({ owner }) => owner) : group(partitions);
  return [...owners].map(([owner, own]) =>
    h("span", { class: "owner" }, owner === null ? chip("never taken", "muted") : chip(own[0].owner_alive ? "alive" : "silent", own[0].owner_alive ? "good" : "error"), owner === null ? "" : code(owner), ` ${own.length}`),
  );
}

function group(partitions) {
  const owners = new Map();
  for (const partition of partitions) owners.set(partition.owner, [...(owners.get(partition.owner) ?? []), partition]);
  return owners;
}
