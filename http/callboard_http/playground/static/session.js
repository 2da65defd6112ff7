// One session as this tab sees it: reads its log, follows its runs, sends what the person decides.
//
// The log decides what is shown; streams only bring it sooner. At every event the cursor moves, so that any cut is
// resumed where it happened.

import { ApiError, runPath, sessionPath } from "./api.js";
import { Conversation } from "./conversation.js";
import { freshId } from "./dom.js";
import { follow } from "./sse.js";
import { DECLARED } from "./tools.js";

const LOOK = 2500; // milliseconds between looks for what other tabs started, while nothing streams
const LOOK_SOON = 600; // the same while a run of this tab waits for its turn behind a pause
const OWN_RUNS = "callboard.own-runs";
const EVENTS_PAGE = 500;
const BEFORE_ALL = "0-0"; // a cursor, too: without one, the server would send snapshots instead of every event

export class Session {
  /** `changed()` is called after anything changed; `failed(error)` hears what the person should know. */
  constructor(api, tools, threadId, { changed, failed }) {
    this.api = api;
    this.tools = tools;
    this.threadId = threadId;
    this.conversation = new Conversation();
    this.connection = "idle"; // idle | connecting | live | waiting | dropped
    this.loading = true;
    this.details = new Map(); // runId -> what GET run says
    this.calls = []; // the session's model calls
    this.queue = []; // runs that this tab posted and that have not started
    this.following = null;
    this.changed = changed;
    this.failed = failed;
    this.closed = new AbortController();
    this.stream = null;
    this.told = new BroadcastChannel("callboard");
    this.told.onmessage = ({ data }) => data === threadId && this.look();
  }

  /** Show the session as the log has it, then follow what is going on; of a new one the server knows nothing. */
  async start({ isNew }) {
    if (!isNew) await this.#guarded(() => this.#readAll());
    this.loading = false;
    this.changed();
    if (!isNew) this.refresh();
    this.#goOn();
    this.#lookAgain();
  }

  #lookAgain() {
    if (this.closed.signal.aborted) return;
    this.timer = setTimeout(async () => {
      await this.look();
      this.#lookAgain();
    }, this.queue.length ? LOOK_SOON : LOOK);
  }

  close() {
    clearTimeout(this.timer);
    this.closed.abort();
    this.stream?.abort();
    this.told.close();
  }

  /** The run that Cancel means: the one at work, else the one that waits for answers, else the next one. */
  get activeRun() {
    const { open } = this.conversation;
    return open ?? this.conversation.waiting()[0]?.runId ?? this.following ?? this.queue[0] ?? null;
  }

  get busy() {
    return this.conversation.open !== null || this.following !== null || this.queue.length > 0;
  }

  async send(text, { agentId, strategy }) {
    const runId = freshId("run");
    const message = { id: messageId(runId), role: "user", content: text };
    own(runId);
    await this.api.post("runs", {
      threadId: this.threadId,
      runId,
      protocolVersion: "1.0",
      messages: [message],
      tools: DECLARED,
      forwardedProps: { agentId, ...(strategy ? { multitaskStrategy: strategy } : {}) },
    });
    if (!this.conversation.items.has(message.id)) this.conversation.addOwn(message.id, text, runId);
    this.queue.push(runId);
    this.told.postMessage(this.threadId);
    this.#goOn();
  }

  /** Answer an interrupt: `payload` is {approved, editedArgs?, reason?} or {outcome}. */
  async decide(call, payload) {
    this.conversation.change(call.id, { decided: payload });
    await this.#answer(call, { resume: [{ interruptId: call.interrupt.id, status: "resolved", payload }] });
  }

  /** Run a call of the page's tools and send what it came to. */
  async runHere(call) {
    own(call.runId);
    const payload = this.tools.run(call.name, call.args);
    await this.#answer(call, { answers: [{ tool_call_id: call.id, status: "result", payload }] });
  }

  async cancel() {
    const runId = this.activeRun;
    if (!runId) return;
    await this.api.post(runPath(runId, "/cancel"), {});
    if (this.queue.includes(runId) && this.following !== runId) this.#neverStarted(runId);
    this.#wake();
  }

  /** Nobody will tell us of the end of a run that we do not follow and that the log does not have. */
  #neverStarted(runId) {
    this.queue = this.queue.filter((queued) => queued !== runId);
    this.conversation.change(messageId(runId), { waiting: false });
    this.conversation.notice("muted", "The run was cancelled before it started.");
  }

  /** Cut the stream, as a tunnel would; the run goes on. */
  drop() {
    this.#tell("dropped");
    this.stream?.abort();
  }

  reconnect() {
    if (this.connection !== "dropped") return;
    this.#tell("idle");
    this.#goOn();
  }

  /** Look whether the log has grown without us. */
  async look() {
    if (this.looking || this.loading || !this.#exists || this.stream || this.connection === "dropped" || document.hidden) return;
    this.looking = true;
    try {
      const { last_event_id: last } = await this.api.get(sessionPath(this.threadId));
      if (last !== this.conversation.lastId) {
        await this.#read();
        this.refresh();
      }
      this.#goOn();
    } catch (error) {
      if (error.status === 410) this.close(); // deleted: there will be nothing more to see
      if (!isMissing(error) && !(error instanceof TypeError)) this.failed(error);
    } finally {
      this.looking = false;
    }
  }

  /** What the runs cost so far. */
  async refresh() {
    if (this.refreshing) return;
    this.refreshing = true;
    await this.#guarded(async () => {
      this.calls = await this.#pages("/usage", "calls");
      const stale = [...this.conversation.runs.keys()].filter((id) => !this.details.get(id)?.ended_at);
      for (const id of stale.slice(-20)) this.details.set(id, await this.api.get(runPath(id)));
    });
    this.refreshing = false;
    this.changed();
  }

  get #exists() {
    return this.conversation.items.size > 0;
  }

  // -- following ------------------------------------------------------------------------------------------------------

  /** Follow the open leg, else the next run that this tab posted, else run the calls that wait for this page. */
  async #goOn() {
    if (this.stream || this.connection === "dropped" || this.closed.signal.aborted) return;
    const runId = this.conversation.open ?? this.resumed ?? this.#nextQueued();
    if (!runId) {
      this.#tell("idle");
      this.#runOwnCalls();
      return;
    }
    await this.#follow(runId);
    this.#goOn();
  }

  async #follow(runId) {
    this.following = runId;
    this.stream = new AbortController();
    try {
      await follow({
        api: this.api,
        path: runPath(runId, "/events"),
        cursor: () => this.conversation.lastId ?? BEFORE_ALL,
        take: (id, event) => this.#take(id, event),
        tell: (state) => this.#tell(state),
        signal: this.stream.signal,
      });
      this.#ended(runId);
      await this.#read(); // the closing event may have been one without an id
    } catch (error) {
      if (error.name !== "AbortError") {
        this.#ended(runId);
        this.failed(error);
      }
    } finally {
      this.stream = null;
      this.following = null;
      if (this.connection !== "dropped") this.#tell("idle");
      this.refresh();
    }
  }

  #ended(runId) {
    if (this.resumed === runId) this.resumed = null;
    this.queue = this.queue.filter((queued) => queued !== runId);
  }

  /** While a run waits for answers, it may go on before the queued one starts: then looking serves both. */
  #nextQueued() {
    this.queue = this.queue.filter((id) => !this.conversation.runs.has(id));
    return this.conversation.waiting().length ? null : this.queue[0] ?? null;
  }

  async #take(id, event) {
    if (id && event.type === "RUN_STARTED" && this.#mayHaveMissed(id)) await this.#read();
    this.conversation.apply(id, event, Date.now());
    if (event.type === "STEP_FINISHED") this.refresh();
    this.changed();
  }

  /** Between two legs that we followed, another tab's run may have had its turn. */
  #mayHaveMissed(id) {
    const last = this.conversation.lastId;
    return Number(id.split("-")[0]) > (last ? Number(last.split("-")[0]) : 0) + 1;
  }

  #wake() {
    this.changed();
    this.look();
  }

  #tell(state) {
    this.connection = state;
    this.changed();
  }

  // -- calls that wait --------------------------------------------------------------------------------------------------

  /** Several tabs may show this session; only the one that asked acts by itself. */
  #runOwnCalls() {
    for (const call of this.conversation.waiting()) {
      if (call.wait === "browser" && this.tools.knows(call.name) && isOwn(call.runId)) this.#guarded(() => this.runHere(call));
    }
  }

  async #answer(call, answers) {
    this.conversation.change(call.id, { wait: "answered" });
    this.changed();
    try {
      const { status } = await this.api.post(runPath(call.runId, "/resume"), answers);
      if (status !== "awaiting_input") this.resumed = call.runId;
    } catch (error) {
      if (error.status !== 409) this.conversation.change(call.id, { wait: call.interrupt ? "decide" : "browser" });
      throw error;
    } finally {
      this.told.postMessage(this.threadId);
      this.changed();
    }
    this.#goOn();
  }

  // -- reading --------------------------------------------------------------------------------------------------------

  async #read() {
    for (;;) {
      const after = this.conversation.lastId;
      const query = `?limit=${EVENTS_PAGE}${after ? `&after=${after}` : ""}`;
      const { events, next } = await this.api.get(sessionPath(this.threadId, `/events${query}`));
      for (const { id, event } of events) this.conversation.apply(id, event);
      this.changed();
      if (next === null || this.closed.signal.aborted) return;
    }
  }

  async #readAll() {
    await this.#read();
    this.conversation.addOlder(await this.#pages("/messages", "messages"));
  }

  async #pages(rest, member) {
    const found = [];
    for (let after = null; ; ) {
      const page = await this.api.get(sessionPath(this.threadId, `${rest}?limit=500${after ? `&after=${after}` : ""}`));
      found.push(...page[member]);
      after = page.next;
      if (after === null) return found;
    }
  }

  async #guarded(action) {
    try {
      await action();
    } catch (error) {
      if (!isMissing(error) && !this.closed.signal.aborted) this.failed(error);
    }
  }
}

const messageId = (runId) => `${runId}-user`;

const isMissing = (error) => error instanceof ApiError && error.status === 404;

function ownRuns() {
  return JSON.parse(sessionStorage.getItem(OWN_RUNS) ?? "[]");
}

function own(runId) {
  sessionStorage.setItem(OWN_RUNS, JSON.stringify([...new Set([...ownRuns(), runId])].slice(-200)));
}

const isOwn = (runId) => ownRuns().includes(runId);
