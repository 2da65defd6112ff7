// Drives an unmodified @ag-ui/client HttpAgent through a scenario and reports what a browser would have seen.
//
// In:  on stdin {client: "current" | "previous", url, headers, threadId, turns: [{runId, messages?, …}]}
// Out: on stdout {turns: [{events, error, aborted}], messages, state, warnings}
//
// A turn's `parameters` go to runAgent as they are. After `abortAfter` words of text the page is closed. With `toolResult`
// the turn answers all tool calls that have none; with `decision` it resolves all interrupts of the turn before.
import { readFileSync } from "node:fs";

const scenario = JSON.parse(readFileSync(0, "utf8"));
const warnings = [];
console.warn = (...words) => warnings.push(words.map(String).join(" "));
console.error = (...words) => warnings.push(words.map(String).join(" "));
const { HttpAgent } = await import(`agui-client-${scenario.client}`);

const agent = new HttpAgent({ url: scenario.url, headers: scenario.headers, threadId: scenario.threadId });

let interrupts = [];

function unanswered() {
  const answered = new Set(agent.messages.filter((m) => m.role === "tool").map((m) => m.toolCallId));
  return agent.messages.flatMap((m) => m.toolCalls ?? []).filter((call) => !answered.has(call.id));
}

function parametersOf(turn) {
  const resume = interrupts.map(({ id }) => ({ interruptId: id, status: "resolved", payload: turn.decision }));
  return { runId: turn.runId, ...(turn.decision === undefined ? {} : { resume }), ...turn.parameters };
}

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
  for (const call of turn.toolResult === undefined ? [] : unanswered()) {
    agent.addMessage({ id: `result-${call.id}`, role: "tool", toolCallId: call.id, content: turn.toolResult });
  }
  try {
    await agent.runAgent(parametersOf(turn), subscriber);
  } catch (error) {
    seen.error = { name: error.name, message: error.message, status: error.status, payload: error.payload };
  }
  const outcome = seen.events.at(-1)?.outcome;
  interrupts = outcome?.type === "interrupt" ? outcome.interrupts : [];
  return seen;
}

function textOf(events) {
  return events.map((event) => (event.type === "TEXT_MESSAGE_CONTENT" ? event.delta : "")).join("");
}

const turns = [];
for (const turn of scenario.turns) turns.push(await take(turn));
process.stdout.write(JSON.stringify({ turns, messages: agent.messages, state: agent.state, warnings }));
