// Follows one leg of a run over as many connections as it takes: a reader on `fetch`, because EventSource sends no headers.

import { ApiError } from "./api.js";

const FIRST_WAIT = 1000; // milliseconds, unless the server says otherwise with `retry:`
const LONGEST_WAIT = 15_000;
const SILENCE = 45_000; // the server says something every 15 s, so by now the connection is dead
const ENDS = new Set(["RUN_FINISHED", "RUN_ERROR"]);

/** The frames of one response body, as `{id, data, retry}`. */
export async function* frames(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) yield frame(block);
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Follow a leg to its closing event, which resolves to true; false means that nothing follows the cursor.
 *
 * `cursor()` gives the id of the last event applied, `take(id, event)` applies one, `tell(state)` hears
 * connecting | live | waiting. Ends with an AbortError when `signal` says so, and with an ApiError for a refusal.
 */
export async function follow({ api, path, cursor, take, tell, signal }) {
  let wait = FIRST_WAIT;
  for (;;) {
    tell("connecting");
    const attempt = new Attempt(signal);
    try {
      const response = await api.fetch(path, { headers: resumeFrom(cursor()), signal: attempt.signal });
      if (response.status === 204) return false;
      if (!response.ok) throw await ApiError.of(response);
      tell("live");
      for await (const { id, data, retry } of frames(attempt.watched(response.body))) {
        wait = retry ?? FIRST_WAIT;
        if (data === null) continue;
        const event = JSON.parse(data);
        await delivered(take, id, event);
        if (ENDS.has(event.type)) return true;
      }
    } catch (error) {
      if (signal.aborted || error instanceof Undeliverable) throw error.cause ?? error;
      if (error instanceof ApiError && ![429, 502, 503, 504].includes(error.status)) throw error;
      wait = error.retryAfter ? error.retryAfter * 1000 : wait;
    } finally {
      attempt.end();
    }
    tell("waiting");
    await rested(wait * (0.75 + Math.random() / 2), signal);
    wait = Math.min(wait * 2, LONGEST_WAIT);
  }
}

/** What went wrong on our side of the connection, where connecting again would not help. */
class Undeliverable extends Error {}

async function delivered(take, id, event) {
  try {
    await take(id, event);
  } catch (cause) {
    throw new Undeliverable("an event was not applied", { cause });
  }
}

/** One connection: it ends with the caller's signal, or when nothing arrives for too long. */
class Attempt {
  constructor(outer) {
    this.controller = new AbortController();
    this.signal = AbortSignal.any([outer, this.controller.signal]);
    this.alive();
  }

  alive() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.controller.abort(), SILENCE);
  }

  watched(body) {
    const heard = (chunk, controller) => {
      this.alive();
      controller.enqueue(chunk);
    };
    return body.pipeThrough(new TransformStream({ transform: heard }));
  }

  end() {
    clearTimeout(this.timer);
    this.controller.abort();
  }
}

const resumeFrom = (id) => ({ Accept: "text/event-stream", ...(id ? { "Last-Event-ID": id } : {}) });

function frame(block) {
  const found = { id: null, data: null, retry: null };
  const data = [];
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon < 1) continue; // a comment, such as the keep-alive
    const value = line.slice(colon + 1).replace(/^ /, "");
    const name = line.slice(0, colon);
    if (name === "data") data.push(value);
    else if (name === "id") found.id = value;
    else if (name === "retry" && /^\d+$/.test(value)) found.retry = Number(value);
  }
  return data.length ? { ...found, data: data.join("\n") } : found;
}

/** Wait, but not longer than until the network is back. */
function rested(ms, signal) {
  return new Promise((resolve, reject) => {
    const over = () => {
      clearTimeout(timer);
      removeEventListener("online", over);
      signal.removeEventListener("abort", over);
      if (signal.aborted) reject(signal.reason);
      else resolve();
    };
    const timer = setTimeout(over, ms);
    addEventListener("online", over);
    signal.addEventListener("abort", over);
    if (signal.aborted) over();
  });
}
