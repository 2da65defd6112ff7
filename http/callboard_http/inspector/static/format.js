// How things are told: statuses as chips, times as "3 min ago", money that knows what it does not know.

import { h } from "../playground/dom.js";

const TONES = {
  active: "busy", running: "busy", queued: "busy", cancelling: "busy", begun: "busy",
  awaiting_input: "attention", PENDING_APPROVAL: "attention", OUTCOME_UNKNOWN: "attention", unknown: "attention", lost: "attention",
  failed: "error", deleted: "error",
  cancelled: "muted", idle: "muted", superseded: "muted", released: "muted", paused: "muted",
};
const UNITS = [[86_400, "d"], [3600, "h"], [60, "min"], [1, "s"]];

export function chip(status, tone = TONES[status] ?? "good") {
  return h("span", { class: "chip", "data-tone": tone }, status.replaceAll("_", " ").toLowerCase());
}

/** A time that says how long ago, or how soon, and keeps itself up to date; the whole time is its tooltip. */
export function when(iso) {
  if (!iso) return h("span", { class: "none" }, "–");
  const date = new Date(iso);
  return h("time", { datetime: iso, title: date.toLocaleString(), "data-relative": "" }, relative(date));
}

export function tickTimes(root) {
  for (const node of root.querySelectorAll("time[data-relative]")) {
    const text = relative(new Date(node.dateTime));
    if (node.textContent !== text) node.textContent = text;
  }
}

export function clock(iso) {
  return new Date(iso).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: "2-digit" });
}

function relative(date) {
  const seconds = Math.round((Date.now() - date) / 1000);
  if (Math.abs(seconds) < 2) return "now";
  return seconds > 0 ? `${span(seconds)} ago` : `in ${span(-seconds)}`;
}

/** Seconds as people say them: one unit, rounded. */
export function span(seconds) {
  const [size, unit] = UNITS.find(([least]) => seconds >= least) ?? UNITS.at(-1);
  return `${Math.round(seconds / size)} ${unit}`;
}

export const duration = (ms) => (ms < 1000 ? `${Math.round(ms)} ms` : ms < 60_000 ? `${(ms / 1000).toFixed(1)} s` : span(ms / 1000));

/** How long something took, or has taken so far. */
export function took(from, to) {
  if (!from) return "–";
  return duration((to ? new Date(to) : new Date()) - new Date(from));
}

/** An unknown price is not zero. */
export function money(cost, unpriced = 0) {
  if (cost === null) return "unknown";
  const known = `$${Number(cost) === 0 ? "0" : Number(cost).toPrecision(3)}`;
  return unpriced ? `${known} + ${unpriced} unpriced` : known;
}

export const number = (value) => value.toLocaleString("en").replaceAll(",", "\u202f");

/** Name and value pairs, those without a value left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, shown.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value instanceof Node ? value : String(value)))));
}

export const code = (text, title) => h("code", { title: title ?? null }, text);
export const link = (href, text, about = {}) => h("a", { href, ...about }, text);

/** Text in which what stands between backticks is code. */
export const prose = (text) => text.split("`").map((part, index) => (index % 2 ? code(part) : part));
