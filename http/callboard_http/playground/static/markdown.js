// A small part of Markdown as elements: paragraphs, headings, lists, code, bold, italics. Everything else stays text.

import { h } from "./dom.js";

const INLINE = /(`[^`\n]+`)|(\*\*[^*\n]+\*\*)|(\*[^*\s][^*\n]*\*)/;
const BULLET = /^\s*[-*]\s+/;
const NUMBER = /^\s*\d{1,9}[.)]\s+/;

/** The elements of `text`; an unfinished block, as it is while text streams, is shown as far as it goes. */
export function markdown(text) {
  const lines = text.split("\n");
  const blocks = [];
  while (lines.length) {
    if (lines[0].startsWith("```")) blocks.push(code(lines));
    else if (BULLET.test(lines[0])) blocks.push(list(lines, BULLET, "ul"));
    else if (NUMBER.test(lines[0])) blocks.push(list(lines, NUMBER, "ol"));
    else if (lines[0].trim() === "") lines.shift();
    else blocks.push(/^#{1,6} /.test(lines[0]) ? heading(lines.shift()) : paragraph(lines));
  }
  return blocks;
}

function code(lines) {
  lines.shift();
  const end = lines.findIndex((line) => line.startsWith("```"));
  const inside = lines.splice(0, end < 0 ? lines.length : end);
  lines.shift();
  return h("pre", { tabindex: "0" }, h("code", {}, inside.join("\n")));
}

function list(lines, mark, tag) {
  const items = [];
  while (lines.length && mark.test(lines[0])) items.push(h("li", {}, inline(lines.shift().replace(mark, ""))));
  return h(tag, {}, items);
}

/** Bold, not a heading element: the outline of the page is not for the model to change. */
const heading = (line) => h("p", {}, h("strong", {}, inline(line.replace(/^#+ /, ""))));

function paragraph(lines) {
  const taken = [lines.shift()];
  while (lines.length && lines[0].trim() !== "" && !startsBlock(lines[0])) taken.push(lines.shift());
  return h("p", {}, inline(taken.join("\n")));
}

const startsBlock = (line) => line.startsWith("```") || BULLET.test(line) || NUMBER.test(line) || /^#{1,6} /.test(line);

function inline(text) {
  const pieces = [];
  let rest = text;
  for (let found = INLINE.exec(rest); found; found = INLINE.exec(rest)) {
    const [all, ticks, bold] = found;
    pieces.push(rest.slice(0, found.index));
    if (ticks) pieces.push(h("code", {}, all.slice(1, -1)));
    else pieces.push(bold ? h("strong", {}, all.slice(2, -2)) : h("em", {}, all.slice(1, -1)));
    rest = rest.slice(found.index + all.length);
  }
  return [...pieces, rest];
}
