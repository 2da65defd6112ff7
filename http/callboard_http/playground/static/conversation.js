// What a session's events come to: the one place that knows what each AG-UI event means. Pure; the views draw it.
//
// In:  events in the order of the log, each at most once; those without an id belong to this reader alone.
// Out: items to show in order, runs with their steps, the shared state, and which calls wait for whom.

import { applyPatch } from "./patch.js";

const KEPT_EVENTS = 2000;

/** Compare two event ids, `<epoch>-<seq>`. */
export function order(left, right) {
  const [a, b] = [left.split("-").map(Number), right.split("-").map(Number)];
  return a[0] - b[0] || a[1] - b[1];
}

export class Conversation {
  constructor() {
    this.items = new Map(); // id -> item, in the order they are shown
    this.runs = new Map(); // runId -> run, oldest first
    this.events = []; // the newest ones: {id, event, at}
    this.received = 0;
    this.holes = 0; // places where an event is missing; there must be none
    this.lastId = null;
    this.open = null; // the run whose leg is open
    this.state = undefined;
    this.changed = new Set(); // ids of items that look different since the view last looked
  }

  /** Apply one event; one that was applied before changes nothing. */
  apply(id, event, at = null) {
    if (id !== null) {
      if (this.lastId && order(id, this.lastId) <= 0) return;
      if (!this.#follows(id)) this.holes += 1;
      this.lastId = id;
    }
    this.received += 1;
    this.events.push({ number: this.received, id, event, at });
    if (this.events.length > KEPT_EVENTS) this.events.shift();
    HANDLERS[event.type]?.(this, event);
  }

  /** A message of this user that the server has taken, before its run starts. */
  addOwn(id, text, runId) {
    this.put({ id, kind: "message", role: "user", text, runId, waiting: true });
  }

  /** Messages of which the log holds no events any more come first. */
  addOlder(messages) {
    const known = this.items;
    const older = new Conversation();
    for (const message of messages.filter((one) => !one.withdrawn && !known.has(one.id))) {
      takeMessage(older, camelised(message), message.run_id);
    }
    const missing = [...older.items].filter(([id]) => !known.has(id)); // a call may be known without its message
    this.items = new Map([...missing, ...known]);
    for (const [id] of missing) this.changed.add(id);
  }

  put(item) {
    this.items.set(item.id, item);
    this.changed.add(item.id);
    return item;
  }

  change(id, members) {
    const item = this.items.get(id);
    if (!item) return;
    Object.assign(item, members);
    this.changed.add(id);
  }

  drop(id) {
    if (this.items.delete(id)) this.changed.add(id);
  }

  notice(tone, text) {
    this.put({ id: `notice-${this.received}`, kind: "notice", tone, text, runId: this.open });
  }

  run(id) {
    if (!this.runs.has(id)) this.runs.set(id, { id, legs: 0, steps: [], status: "queued", at: null });
    return this.runs.get(id);
  }

  /** Calls that wait for an answer, in order. */
  waiting() {
    return [...this.items.values()].filter((item) => item.kind === "call" && ["decide", "browser"].includes(item.wait));
  }

  #follows(id) {
    const [epoch, seq] = id.split("-").map(Number);
    if (!this.lastId) return seq === 1;
    const [lastEpoch, lastSeq] = this.lastId.split("-").map(Number);
    return epoch === lastEpoch ? seq === lastSeq + 1 : seq === 1;
  }
}

const HANDLERS = {
  RUN_STARTED(view, { runId, input }) {
    abandonOthers(view, runId);
    const run = view.run(runId);
    Object.assign(run, { status: "running", legs: run.legs + 1, error: null });
    view.open = runId;
    for (const message of input?.messages ?? []) takeMessage(view, message, runId);
    for (const item of view.waiting()) if (item.runId === runId) view.change(item.id, { wait: "answered" });
  },

  RUN_FINISHED(view, { runId, outcome = { type: "success" }, usage }) {
    const run = view.run(runId);
    run.usage = [...(run.usage ?? []), ...(usage ?? [])];
    const waits = markWaiting(view, runId, outcome);
    run.status = waits ? "awaiting_input" : outcome.type === "cancelled" ? "cancelled" : "succeeded";
    if (run.status === "cancelled") view.notice("muted", "The run was cancelled.");
    if (!waits) giveUpCalls(view, runId);
    close(view);
  },

  RUN_ERROR(view, { message, code }) {
    const run = view.open ? view.run(view.open) : null;
    if (run) Object.assign(run, { status: "failed", error: { code, message } });
    view.notice("error", code ? `${message} (${code})` : message);
    giveUpCalls(view, view.open);
    close(view);
  },

  STEP_STARTED(view, { stepName }) {
    if (view.open) view.run(view.open).steps.push({ name: stepName, open: true });
  },

  STEP_FINISHED(view, { stepName }) {
    const step = view.runs.get(view.open)?.steps.findLast((one) => one.name === stepName && one.open);
    if (step) step.open = false;
  },

  TEXT_MESSAGE_START(view, { messageId, role = "assistant" }) {
    const known = view.items.get(messageId);
    if (known) view.change(messageId, { streaming: true });
    else view.put({ id: messageId, kind: "message", role, text: "", streaming: true, runId: view.open });
  },

  TEXT_MESSAGE_CONTENT(view, { messageId, delta }) {
    append(view, messageId, "text", delta);
  },

  TEXT_MESSAGE_END(view, { messageId, metadata }) {
    const withdrawn = metadata?.callboard?.withdrawn === true;
    view.change(messageId, { streaming: false, ...(withdrawn ? { withdrawn } : {}) });
  },

  REASONING_MESSAGE_START(view, { messageId }) {
    const id = `reasoning-${messageId}`;
    if (view.items.has(id)) view.change(id, { streaming: true });
    else view.put({ id, kind: "reasoning", text: "", streaming: true, runId: view.open });
  },

  REASONING_MESSAGE_CONTENT(view, { messageId, delta }) {
    append(view, `reasoning-${messageId}`, "text", delta);
  },

  REASONING_MESSAGE_END(view, { messageId }) {
    view.change(`reasoning-${messageId}`, { streaming: false });
  },

  TOOL_CALL_START(view, { toolCallId, toolCallName }) {
    if (view.items.has(toolCallId)) view.change(toolCallId, { streaming: true });
    else view.put(newCall(toolCallId, toolCallName, view.open, { streaming: true }));
  },

  TOOL_CALL_ARGS(view, { toolCallId, delta }) {
    append(view, toolCallId, "args", delta);
  },

  TOOL_CALL_END(view, { toolCallId }) {
    view.change(toolCallId, { streaming: false });
  },

  TOOL_CALL_RESULT(view, { toolCallId, content }) {
    view.change(toolCallId, { result: plain(content), wait: null });
  },

  STATE_SNAPSHOT(view, { snapshot }) {
    view.state = snapshot;
  },

  STATE_DELTA(view, { delta }) {
    try {
      view.state = applyPatch(view.state ?? {}, delta);
    } catch (error) {
      view.notice("error", `A change of the shared state does not fit: ${error.message}`);
    }
  },

  MESSAGES_SNAPSHOT(view, { messages }) {
    const told = new Set(messages.flatMap((m) => [m.id, ...(m.toolCalls ?? []).map((call) => call.id)]));
    const lost = [...view.items.values()].filter((item) => uncommitted(view, item) && !told.has(item.id));
    for (const item of lost) view.drop(item.id);
    if (lost.length) view.notice("muted", "A worker was lost; what it had not recorded was withdrawn, and another one went on.");
    for (const message of messages) takeMessage(view, message);
  },
};

/** What a reader of AG-UI drops when a snapshot does not name it; other runs' items stay for the person to read. */
function uncommitted(view, item) {
  return item.runId === view.open && !item.waiting && !item.withdrawn && ["message", "call"].includes(item.kind);
}

function takeMessage(view, message, runId = null) {
  const known = view.items.get(message.id);
  const text = plain(message.content);
  if (message.role === "tool") {
    view.change(message.toolCallId, { result: text, wait: null });
    return;
  }
  if (!["user", "assistant"].includes(message.role)) return;
  if (known) view.change(message.id, { text, waiting: false, runId: known.runId ?? runId });
  else if (text) view.put({ id: message.id, kind: "message", role: message.role, text, runId });
  for (const call of message.toolCalls ?? []) {
    const { name, arguments: args } = call.function;
    if (!view.items.has(call.id)) view.put(newCall(call.id, name, runId, { args }));
  }
}

/** Who each unanswered call of a leg that ended waits for; whether any does. */
function markWaiting(view, runId, outcome) {
  const interrupts = new Map((outcome.interrupts ?? []).map((one) => [one.toolCallId ?? one.id, one]));
  const named = outcome.pendingToolCallIds && new Set(outcome.pendingToolCallIds);
  const paused = outcome.type === "interrupt" || named?.size > 0;
  for (const item of paused ? [...view.items.values()] : []) {
    if (item.kind !== "call" || item.result !== null) continue;
    if (interrupts.has(item.id)) view.change(item.id, { wait: "decide", interrupt: interrupts.get(item.id), runId });
    else if (named ? named.has(item.id) : item.runId === runId) view.change(item.id, { wait: "browser", runId });
  }
  return paused;
}

/** A run that waited for the browser ends when another one starts. */
function abandonOthers(view, runId) {
  for (const item of view.waiting()) if (item.runId !== runId) view.change(item.id, { wait: "abandoned" });
}

/** No result comes any more once the run has ended. */
function giveUpCalls(view, runId) {
  for (const item of view.items.values()) {
    if (item.kind === "call" && item.runId === runId && item.result === null) view.change(item.id, { wait: "abandoned" });
  }
}

function close(view) {
  for (const item of view.items.values()) {
    if (item.streaming) view.change(item.id, { streaming: false });
    if (item.waiting && item.runId === view.open) view.change(item.id, { waiting: false });
  }
  view.open = null;
}

function append(view, id, member, delta) {
  const item = view.items.get(id);
  if (item) view.change(id, { [member]: item[member] + delta });
}

function newCall(id, name, runId, members) {
  return { id, kind: "call", name, args: "", result: null, wait: null, interrupt: null, runId, ...members };
}

function plain(content) {
  if (content === null || content === undefined) return "";
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return JSON.stringify(content);
  return content.map((part) => part.text ?? `[${part.type}]`).join("");
}

const camelised = ({ tool_calls: toolCalls, tool_call_id: toolCallId, ...rest }) => ({ ...rest, toolCalls, toolCallId });
