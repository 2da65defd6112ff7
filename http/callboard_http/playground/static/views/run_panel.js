// The run timeline: for each run its steps, and each model call with tokens, cost, latency and its place in time.

import { arrange, h } from "../dom.js";

const TONES = { running: "busy", queued: "busy", cancelling: "busy", awaiting_input: "attention", failed: "error", cancelled: "muted" };
const SHOWN_RUNS = 30;
const LONGEST_GAP = 0.25; // of the time that all calls took

export class RunPanel {
  constructor(node) {
    this.node = node;
    this.list = h("ol", { class: "runs" });
    this.empty = h("p", { class: "hint" }, "Runs appear here: their steps, and every model call with tokens, cost and time.");
    node.append(this.empty, this.list);
    this.drawn = new Map(); // runId -> {text, node}
  }

  draw({ conversation, details, calls }) {
    const runs = [...conversation.runs.values()].slice(-SHOWN_RUNS).reverse();
    this.empty.hidden = runs.length > 0;
    arrange(this.list, runs.map((run) => this.#run(run, details.get(run.id), calls)));
  }

  /** The run's part of the list, made anew only when something about it changed. */
  #run(run, told, calls) {
    const own = calls.filter((call) => call.run_id === (told?.run_id ?? run.id));
    const text = JSON.stringify([run, told, own]);
    const known = this.drawn.get(run.id);
    if (known?.text === text) return known.node;
    const node = h("li", { class: "run", "data-run": run.id }, head(run, told), totals(told), steps(run), modelCalls(own));
    this.drawn.set(run.id, { text, node });
    return node;
  }
}

export function chip(status) {
  return h("span", { class: "chip", "data-tone": TONES[status] ?? "good" }, status.replace("_", " "));
}

function head(run, told) {
  const status = ["running", "queued"].includes(run.status) ? run.status : (told?.status ?? run.status);
  const legs = run.legs > 1 ? ` · ${run.legs} legs` : "";
  return h(
    "header",
    {},
    h("strong", {}, told?.agent_id ?? "run"),
    chip(status),
    h("code", { class: "id", title: run.id }, `${run.id}${legs}`),
  );
}

function totals(told) {
  if (!told) return null;
  const { usage, started_at: from, ended_at: to } = told;
  const facts = [
    ["Model calls", usage.calls],
    ["Tokens in", usage.input_tokens],
    ["Tokens out", usage.output_tokens],
    ["Cost", money(usage.cost, usage.unpriced_calls)],
    ["Time", from && to ? seconds(new Date(to) - new Date(from)) : "–"],
  ];
  return h("dl", { class: "facts" }, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)))));
}

function steps(run) {
  if (!run.steps.length) return null;
  const shown = run.steps.map(({ name, open }) =>
    h("li", { "data-open": String(open) }, name, h("span", { class: "sr-only" }, open ? ", at work" : ", finished")),
  );
  return h("ol", { class: "steps", "aria-label": "Steps" }, shown);
}

function modelCalls(calls) {
  if (!calls.length) return null;
  const { offsets, span } = places(calls);
  return h("ol", { class: "calls", "aria-label": "Model calls" }, calls.map((call, i) => modelCall(call, offsets[i], span)));
}

/** Where the calls begin, in milliseconds; a wait for a person is shown shorter than it was, else it would be all there is. */
function places(calls) {
  const lengths = calls.map((call) => call.latency_ms ?? 0);
  const longest = Math.max(lengths.reduce((sum, length) => sum + length, 0) * LONGEST_GAP, 1);
  const offsets = [0];
  for (let i = 1; i < calls.length; i += 1) {
    const apart = Date.parse(calls[i].begun_at) - Date.parse(calls[i - 1].begun_at);
    offsets.push(offsets[i - 1] + Math.min(apart, lengths[i - 1] + longest));
  }
  return { offsets, span: Math.max(...calls.map((_, i) => offsets[i] + lengths[i]), 1) };
}

function modelCall(call, offset, span) {
  const told = [
    `${call.input_tokens ?? "?"} → ${call.output_tokens ?? "?"} tokens`,
    money(call.cost, call.cost === null ? 1 : 0),
    call.latency_ms === null ? (call.status === "begun" ? "at work" : null) : seconds(call.latency_ms),
    call.first_token_ms === null ? null : `first token ${seconds(call.first_token_ms)}`,
    call.estimated ? "estimated" : null,
  ];
  const status = ["recorded", "begun"].includes(call.status) ? null : h("span", { class: "chip", "data-tone": "muted" }, call.status);
  return h(
    "li",
    {},
    h("div", { class: "call-head" }, h("strong", {}, call.stage), h("code", {}, call.model), status),
    bar(offset, call, span),
    h("div", { class: "call-facts" }, told.filter(Boolean).join(" · ")),
  );
}

/** Where in the run's time the call was: waiting for its first token, then streaming. */
function bar(offset, call, span) {
  const part = (name, from, length) => {
    const piece = h("span", { class: name });
    piece.style.left = `${(100 * from) / span}%`;
    piece.style.width = `${Math.max((100 * length) / span, 0.5)}%`;
    return piece;
  };
  const latency = call.latency_ms ?? span - offset;
  const wait = Math.min(call.first_token_ms ?? latency, latency);
  return h("div", { class: "bar", "aria-hidden": "true" }, part("wait", offset, wait), part("stream", offset + wait, latency - wait));
}

/** An unknown price is not zero. */
function money(cost, unpriced) {
  if (cost === null) return "price unknown";
  const known = `$${Number(cost) === 0 ? "0" : Number(cost).toPrecision(3)}`;
  return unpriced ? `${known} + ${unpriced} unpriced` : known;
}

const seconds = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`);
