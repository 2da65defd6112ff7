// The journal as a timeline: each step with its place in time, its model call or tool, and what came of it.

import { h, pretty } from "../playground/dom.js";
import { chip, clock, code, duration, money, number } from "./format.js";

const LONGEST_GAP = 0.2; // of the time that all steps took: a night's wait for a person must not flatten the rest

/** A list of the run's steps, and of the pauses between its legs. */
export function timeline(detail) {
  const steps = joined(detail);
  if (!steps.length) return h("p", { class: "empty" }, detail.run.status === "queued" ? "It waits for its turn." : "No step was begun.");
  const { places, span } = layout(steps);
  const rows = [];
  steps.forEach((step, index) => {
    if (step.leg !== steps[index - 1]?.leg || step.epoch !== steps[index - 1]?.epoch) rows.push(mark(step, steps[index - 1], detail));
    rows.push(row(step, places[index], span));
  });
  return h("ol", { class: "timeline", "aria-label": "Steps" }, rows);
}

function joined({ steps, calls, attempts }) {
  const callOf = new Map(calls.map((call) => [`${call.epoch} ${call.key}`, call]));
  const legOf = new Map(attempts.map((attempt) => [attempt.epoch, attempt.leg]));
  return steps.map((step) => ({ ...step, call: callOf.get(`${step.epoch} ${step.key}`), leg: legOf.get(step.epoch) }));
}

/** Where each step begins and ends, in milliseconds of a time in which long waits are shown shorter. */
function layout(steps) {
  const times = steps.map((step) => {
    const from = Date.parse(step.begun_at);
    return { from, to: Math.max(from, Date.parse(step.recorded_at ?? step.call?.ended_at ?? step.begun_at)) };
  });
  const order = times.map((_, index) => index).sort((a, b) => times[a].from - times[b].from);
  const gap = Math.max(times.reduce((sum, { from, to }) => sum + to - from, 0) * LONGEST_GAP, 1);
  const places = new Array(times.length);
  let taken = 0; // waits that were left out
  let reached = times[order[0]].from;
  for (const index of order) {
    const { from, to } = times[index];
    taken += Math.max(from - reached - gap, 0);
    reached = Math.max(reached, to);
    places[index] = { from: from - times[order[0]].from - taken, length: to - from };
  }
  return { places, span: Math.max(...places.map(({ from, length }) => from + length), 1) };
}

function mark(step, before, { attempts }) {
  const attempt = attempts.find(({ epoch }) => epoch === step.epoch);
  const first = !before || before.leg !== step.leg;
  const what = first ? (step.leg === undefined ? "Begun" : `Leg ${step.leg}`) : `Leg ${step.leg}, another attempt`;
  return h("li", { class: "mark" }, h("strong", {}, what), h("span", {}, attempt ? ` · epoch ${step.epoch} · ${clock(attempt.started_at)} · ` : ` · epoch ${step.epoch}`), attempt ? code(attempt.process) : null);
}

function row(step, place, span) {
  const summary = h(
    "summary",
    {},
    h("span", { class: "what" }, h("span", { class: "kind" }, step.kind), h("strong", {}, step.name), step.call ? code(step.call.model) : null, ["recorded"].includes(step.status) ? null : chip(step.status)),
    bar(step, place, span),
    h("span", { class: "told" }, told(step)),
  );
  return h("li", {}, h("details", { "data-key": `${step.epoch} ${step.key}`, "data-kind": step.kind }, summary, inside(step)));
}

function told({ call, recorded_at: to, begun_at: from, status }) {
  const time = to ? duration(Math.max(Date.parse(to) - Date.parse(from), 0)) : status === "begun" ? "at work" : null;
  if (!call) return time ?? "";
  const facts = [
    call.latency_ms === null ? time : duration(call.latency_ms),
    call.first_token_ms === null ? null : `first token ${duration(call.first_token_ms)}`,
    `${number(call.input_tokens)} → ${number(call.output_tokens)} tokens`,
    call.cost === null ? "price unknown" : money(call.cost),
    call.estimated ? "estimated" : null,
  ];
  return facts.filter(Boolean).join(" · ");
}

/** Waiting for the first token, then streaming; a tool is one piece. */
function bar({ call, status }, { from, length }, span) {
  const wait = call ? Math.min(call.first_token_ms ?? length, length) : 0;
  const part = (name, start, size) => {
    const piece = h("span", { class: name });
    piece.style.left = `${(100 * start) / span}%`;
    piece.style.width = `${Math.max((100 * size) / span, 0.6)}%`;
    return piece;
  };
  const kind = call ? "stream" : "tool";
  return h("span", { class: "bar", "aria-hidden": "true", "data-status": status }, wait ? part("wait", from, wait) : null, part(kind, from + wait, length - wait));
}

function inside(step) {
  const { call } = step;
  const about = [
    `begun ${clock(step.begun_at)}`,
    step.recorded_at ? `recorded ${clock(step.recorded_at)}` : null,
    call?.cached_tokens ? `${number(call.cached_tokens)} tokens from the cache` : null,
    call?.reasoning_tokens ? `${number(call.reasoning_tokens)} reasoning tokens` : null,
  ];
  const cut = step.result_length > (step.result?.length ?? 0);
  return h(
    "div",
    { class: "inside" },
    h("p", { class: "hint" }, about.filter(Boolean).join(" · "), " · ", code(step.key)),
    step.error ? h("p", { class: "problem" }, step.error) : null,
    step.result === null ? h("p", { class: "hint" }, "Nothing is recorded.") : h("pre", { class: "block", tabindex: "0", role: "region", "aria-label": `Record of ${step.name}` }, cut ? step.result : readable(step.result)),
    cut ? h("p", { class: "hint" }, `Cut: it has ${number(step.result_length)} characters.`) : null,
  );
}

/** The recorded JSON; what is JSON inside a string, as arguments and results of tools are, is opened too. */
function readable(text) {
  try {
    return pretty(opened(JSON.parse(text)));
  } catch {
    return text;
  }
}

function opened(value) {
  if (typeof value === "string" && /^\s*[{[]/.test(value)) {
    try {
      return opened(JSON.parse(value));
    } catch {
      return value;
    }
  }
  if (Array.isArray(value)) return value.map(opened);
  if (value === null || typeof value !== "object") return value;
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, opened(inner)]));
}
