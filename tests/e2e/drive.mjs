// Drives an unmodified @ag-ui/client HttpAgent through a scenario and reports what a browser would have seen.
//
// In:  on stdin {client: "current" | "previous", url, headers, threadId, turns: [{message, runId, abortAfter?, …}]}
// Out: on stdout {turns: [{events, error, aborted}], messages, state, warnings}
//
// A turn's `parameters` go to runAgent as they are; `abortAfter` words of text the page is closed.
import { readFileSync } from "node:fs";

const scenario = JSON.parse(readFileSync(0, "utf8"));
const warnings = [];
console.warn = (...words) => warnings.push(words.map(String).join(" "));
console.error = (...words) => warnings.push(words.map(String).join(" "));
const { HttpAgent } = await import(`agui-client-${scenario.client}`);

const agent = new HttpAgent({ url: scenario.url, headers: scenario.headers, threadId: scenario.threadId });

async function take(turn) {
  const seen = { events: [], error: null, aborted: false };
  const subscriber = {
    onEvent: ({ event }) => {
      seen.events.push(event);
      const words = textOf(seen.events).split(" ").filter(Boolean).length;
      if (turn.abortAfter && words >= turn.abortAfter && !seen.aborted) {
        seen.aborted = true;
        agent.abortRun();
      }
    },
  };
  for (const message of turn.messages ?? []) agent.addMessage(message);
  try {
    await agent.runAgent({ runId: turn.runId, ...turn.parameters }, subscriber);
  } catch (error) {
    seen.error = { name: error.name, message: error.message, status: error.status, payload: error.payload };
  }
  return seen;
}

function textOf(events) {
  return events.map((event) => (event.type === "TEXT_MESSAGE_CONTENT" ? event.delta : "")).join("");
}

const turns = [];
for (const turn of scenario.turns) turns.push(await take(turn));
process.stdout.write(JSON.stringify({ turns, messages: agent.messages, state: agent.state, warnings }));
