// Builds elements. Text only ever becomes text nodes: nothing here, or anywhere else in this page, parses HTML.

const ONE_LINE = 64; // characters

/** An element with attributes, listeners (`onclick: fn`) and children; null, false and undefined are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children.flat().filter(shown));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Make `list` hold exactly `nodes`, moving and removing as few as possible so that focus and scrolling survive. */
export function arrange(list, nodes) {
  const kept = new Set(nodes);
  for (const child of [...list.children]) if (!kept.has(child)) child.remove();
  nodes.forEach((node, index) => {
    if (list.children[index] !== node) list.insertBefore(node, list.children[index] ?? null);
  });
}

/** JSON for people, on one line if that is short; text that is no JSON object or list stays as it is. */
export function pretty(value) {
  if (typeof value !== "string") return laidOut(value);
  try {
    const parsed = JSON.parse(value);
    return parsed !== null && typeof parsed === "object" ? laidOut(parsed) : value;
  } catch {
    return value;
  }
}

function laidOut(value) {
  const lines = JSON.stringify(value, null, 2) ?? "";
  const line = lines.replace(/\n */g, " ");
  return line.length <= ONE_LINE ? line : lines;
}

/** Nobody can guess it; unlike `crypto.randomUUID` this also works on pages that were not served over TLS. */
export function freshId(kind) {
  const bytes = crypto.getRandomValues(new Uint8Array(8));
  return `${kind}-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

function set(element, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
  else element.setAttribute(name, value === true ? "" : value);
}

const shown = (child) => child !== null && child !== undefined && child !== false;
