// A row of filters; each change is a new address.

import { h } from "../playground/dom.js";
import { Place } from "./place.js";

/** A form of `fields`: {name, label, options?: [[value, text]], placeholder?}. */
export function filters(place, fields) {
  const inputs = fields.map((field) => control(field, place.filters.get(field.name) ?? ""));
  const go = () => Place.filter(place.section, Object.fromEntries(inputs.map((input) => [input.name, input.value.trim()])));
  const labelled = fields.map((field, index) => h("div", { class: "filter" }, h("label", { for: inputs[index].id }, field.label), inputs[index]));
  const form = h("form", { class: "filters", role: "search", "aria-label": "Filter", onsubmit: (event) => { event.preventDefault(); go(); }, onchange: go }, labelled);
  if (place.filtering && lastUsed) queueMicrotask(() => form.querySelector(`[name="${lastUsed}"]`)?.focus());
  form.addEventListener("focusin", (event) => { lastUsed = event.target.name; });
  return form;
}

let lastUsed = null;

function control({ name, options, placeholder }, value) {
  const id = `filter-${name}`;
  if (!options) return h("input", { type: "text", id, name, value, placeholder: placeholder ?? null, autocomplete: "off", spellcheck: "false" });
  return h("select", { id, name }, options.map(([option, text]) => h("option", { value: option, selected: option === value }, text)));
}
