// The system at a glance: what is wrong, who is there, what waits.

import { h } from "../../playground/dom.js";
import { link, number, prose, when } from "../format.js";
import { Table } from "../table.js";

const KINDS = { http: "Fronts", actors: "Actors", worker: "Workers" };
const QUEUES = {
  sessions: "Commands to sessions (64 queues)",
  "callboard.worker.v1": "Wake-ups to workers",
  "callboard.ingress.v1": "Requests of integrations",
  "callboard.dead.v1": "Dead letters",
};

export class OverviewView {
  title = "Overview";

  constructor(api) {
    this.api = api;
    this.verdict = h("div", { class: "verdict" });
    this.tiles = h("div");
    this.queues = new Table(
      "Queues",
      [
        ["Queue", (queue) => QUEUES[queue.name] ?? queue.name],
        ["Waiting", (queue) => number(queue.messages), "number"],
        ["Consumers", (queue) => number(queue.consumers), "number"],
        ["Not declared", (queue) => (queue.missing ? number(queue.missing) : ""), "number"],
      ],
      (queue) => queue.name,
      "The broker is away: nobody knows what waits there.",
    );
    this.node = h("section", { "aria-labelledby": "view-title" }, h("h2", { id: "view-title" }, this.title), this.verdict, this.tiles, h("h3", {}, "Queues"), this.queues.node);
  }

  async load() {
    const status = await this.api.get("status");
    this.#judge(status);
    this.#count(status);
    this.queues.draw(status.queues ?? []);
    return status.problems.length ? `${status.problems.length} problems: ${status.problems.join(". ")}` : "All is well.";
  }

  #count(status) {
    const { queues, problems, ...counted } = status;
    const told = counted.processes?.map(({ beat_at, silent, ...process }) => process); // a beat changes nothing here
    const text = JSON.stringify({ ...counted, processes: told });
    if (text === this.counted) return;
    this.counted = text;
    const groups = [["Services", services(status)], ["Work", waiting(status)], ["Processes", living(status)]];
    this.tiles.replaceChildren(...groups.flatMap(([name, tiles]) => (tiles.length ? [h("h3", {}, name), h("ul", { class: "tiles" }, tiles)] : [])));
  }

  #judge({ problems }) {
    const text = JSON.stringify(problems);
    if (text === this.judged) return;
    this.judged = text;
    this.verdict.dataset.tone = problems.length ? "error" : "good";
    const told = problems.map((problem) => h("li", {}, prose(problem)));
    this.verdict.replaceChildren(h("strong", {}, problems.length ? "Something is wrong" : "All is well"), problems.length ? h("ul", {}, told) : "");
  }
}

function tile(name, value, about, tone = null) {
  return h("li", { class: "tile", "data-tone": tone }, h("span", { class: "name" }, name), h("span", { class: "value" }, value), h("span", { class: "about" }, about));
}

function services({ services }) {
  return services.map(({ name, reachable, problem }) =>
    tile(name[0].toUpperCase() + name.slice(1), reachable ? "answers" : "is away", problem ?? "", reachable ? "good" : "error"),
  );
}

function waiting({ backlog }) {
  if (!backlog) return [];
  const { counted_to: most } = backlog;
  const told = (count) => (count >= most ? `over ${number(most)}` : number(count));
  const runs = backlog.runs.map(({ status, runs, oldest }) =>
    tile(link(`#/runs?status=${status}`, `Runs ${status.replace("_", " ")}`), told(runs), oldest ? h("span", {}, "oldest ", when(oldest)) : "", runs && status === "awaiting_input" ? "attention" : null),
  );
  const oldest = backlog.outbox_oldest ? h("span", {}, "oldest ", when(backlog.outbox_oldest)) : "";
  return [...runs, tile("Messages to be sent", told(backlog.outbox_due), oldest)];
}

function living({ processes }) {
  return Object.entries(KINDS).map(([kind, name]) => {
    const own = (processes ?? []).filter((process) => process.kind === kind);
    const alive = own.filter((process) => process.alive);
    const silent = own.length - alive.length;
    const busy = alive.reduce((sum, process) => sum + process.attempts.length, 0);
    const about = kind === "worker" ? `${number(busy)} runs at work, ${number(alive.reduce((sum, { slots }) => sum + slots, 0))} slots free` : "";
    const told = [about, silent ? `${silent} silent` : ""].filter(Boolean).join(" · ");
    return tile(link("#/processes", name), processes ? number(alive.length) : "?", told, alive.length ? null : "error");
  });
}
