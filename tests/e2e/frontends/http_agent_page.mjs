// A page with an unmodified @ag-ui/client HttpAgent, as the documentation builds it.
//
// In:  on stdin {client, url, headers, threadId, tools: {name: answer}, steps: [step…]}
// Out: on stdout {steps: [{events, error, status}], messages, state, pending, ran, warnings}
//
// Steps: {say, cut?} asks, and closes the connection after `cut` words or pieces of arguments, or at an event of the
// type `cut`; {answer: [payload | null]} answers what is pending in order, null cancels; {resume: [entry…]} answers as
// it says; {reload} is a new page; {connect, open?} shows the thread as it is now, makes the file `open`, and follows
// the thread. A `runId` may be given.
import { readFileSync, writeFileSync } from "node:fs";

const scenario = JSON.parse(readFileSync(0, "utf8"));
const warnings = [];
console.warn = console.error = (...words) => warnings.push(words.map(String).join(" "));
const { HttpAgent, runHttpRequest, transformHttpEventStream } = await import(`agui-client-${scenario.client}`);

class CallboardAgent extends HttpAgent {
  connect(input) {
    this.abortController = new AbortController(); // an aborted run has used up the last one
    return transformHttpEventStream(runHttpRequest(() => fetch(`${this.url}/connect`, this.requestInit(input))));
  }
}

const tools = Object.keys(scenario.tools ?? {}).map((name) => ({ name, description: name, parameters: { type: "object" } }));
const ran = [];
let agent = open();

function open() {
  return new CallboardAgent({ url: scenario.url, headers: scenario.headers, threadId: scenario.threadId });
}

function watcher(seen, cut, open) {
  return {
    onEvent: ({ event }) => {
      seen.events.push(event);
      const pieces = seen.events.filter(({ type }) => /_CONTENT$|_ARGS$/.test(type)).length;
      if (open && event.type === "MESSAGES_SNAPSHOT") writeFileSync(open, "");
      if ((event.type === cut || pieces >= cut) && !seen.cut) {
        seen.cut = true;
        agent.abortRun();
      }
    },
    onRunFailed: ({ error }) => (seen.failed = error.message),
  };
}

async function run(seen, parameters, cut) {
  const before = new Set(agent.messages.map(({ id }) => id));
  await agent.runAgent({ tools, ...parameters }, watcher(seen, cut));
  const calls = agent.messages.filter(({ id }) => !before.has(id)).flatMap(({ toolCalls }) => toolCalls ?? []);
  const answered = new Set(agent.messages.map(({ toolCallId }) => toolCallId));
  const mine = calls.filter(({ id, function: { name } }) => name in (scenario.tools ?? {}) && !answered.has(id));
  if (!mine.length || seen.cut || agent.pendingInterrupts?.length) return;
  for (const { id, function: { name, arguments: given } } of mine) {
    ran.push({ name, arguments: JSON.parse(given || "{}") });
    agent.addMessage({ id: `result-${id}`, role: "tool", toolCallId: id, content: scenario.tools[name] });
  }
  await run(seen, {}, cut);
}

const deeds = {
  say: async (step, seen) => {
    agent.addMessage({ id: step.id ?? crypto.randomUUID(), role: "user", content: step.say });
    await run(seen, { runId: step.runId }, step.cut);
  },
  answer: async (step, seen) => {
    const resume = agent.pendingInterrupts.map(({ id }, index) => {
      const payload = step.answer[index];
      return payload === null ? { interruptId: id, status: "cancelled" } : { interruptId: id, status: "resolved", payload };
    });
    await run(seen, { resume });
  },
  resume: async (step, seen) => {
    agent = Object.assign(open(), { messages: agent.messages }); // the client itself knows of no such interrupt
    await run(seen, { resume: step.resume });
  },
  reload: async () => (agent = open()),
  connect: async (step, seen) => void (await agent.connectAgent({}, watcher(seen, undefined, step.open))),
};

const steps = [];
for (const step of scenario.steps) {
  const seen = { events: [], error: null };
  try {
    await deeds[Object.keys(deeds).find((name) => name in step)](step, seen);
  } catch (error) {
    seen.error = { message: error.message, status: error.status };
  }
  steps.push(seen);
}
const { messages, state, pendingInterrupts: pending = [] } = agent;
process.stdout.write(JSON.stringify({ steps, messages, state, pending, ran, warnings }));
