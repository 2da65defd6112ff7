// A page with an unmodified @copilotkit/core, which speaks to Callboard as if it were CopilotKit's runtime.
//
// In:  on stdin {url, headers, transport, agent, threadId, tools: {name: answer}, steps: [step…]}
// Out: on stdout {agents, steps: [{events, errors}], messages, state, pending, ran, threads, warnings}
//
// Steps: {say, stop?} asks, and presses stop after so many words; {answer: [payload | null]} answers what is pending as
// `useInterrupt` does; {reload} is a new page; {connect} opens the thread; {threads} lists them.
import { readFileSync } from "node:fs";

process.env.COPILOTKIT_TELEMETRY_DISABLED = "true";
process.env.NODE_ENV = "production";
const scenario = JSON.parse(readFileSync(0, "utf8"));
const warnings = [];
console.warn = console.error = (...words) => warnings.push(words.map(String).join(" "));
globalThis.window = Object.assign(new EventTarget(), { location: new URL(scenario.url) });
const { CopilotKitCore, ɵInterruptState, ɵcreateThreadStore } = await import("@copilotkit/core");
const { z } = await import("zod");

const ran = [];
let errors, core, agent, threads;
const interrupts = new ɵInterruptState();
let interruptedRun;

async function open() {
  core = new CopilotKitCore({ runtimeUrl: scenario.url, runtimeTransport: scenario.transport, headers: scenario.headers });
  core.subscribe({ onError: ({ code, error }) => errors.push({ code, message: error.message }) });
  await until(() => core.runtimeConnectionStatus === "connected" || errors.length);
  for (const [name, answer] of Object.entries(scenario.tools ?? {})) {
    const handler = async (given) => (ran.push({ name, arguments: given }), answer);
    core.addTool({ name, description: name, parameters: z.object({}).passthrough(), handler });
  }
  agent = core.getAgent(scenario.agent);
  if (agent) agent.threadId = scenario.threadId;
}

async function until(condition) {
  const end = Date.now() + 30_000;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`waited in vain for ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

function watch(seen, stopAfter) {
  let runId;
  return agent.subscribe({
    onRunInitialized: ({ input }) => void (runId = input.runId),
    onEvent: ({ event }) => {
      seen.events.push(event);
      const pieces = seen.events.filter(({ type }) => type === "TEXT_MESSAGE_CONTENT").length;
      if (stopAfter && pieces === stopAfter) core.stopAgent({ agent });
    },
    onRunStartedEvent: ({ event }) => void (runId = event.runId),
    onRunFinalized: () => {
      interrupts.clear();
      if (agent.pendingInterrupts?.length) {
        interrupts.setStandard(agent.pendingInterrupts);
        interruptedRun = runId;
      }
    },
  });
}

const deeds = {
  say: async (step) => {
    agent.addMessage({ id: step.id ?? crypto.randomUUID(), role: "user", content: step.say });
    await core.runAgent({ agent });
  },
  answer: async (step) => {
    let decided;
    agent.pendingInterrupts.forEach(({ id }, index) => {
      const payload = step.answer[index];
      decided = payload === null ? interrupts.cancel(id) : interrupts.resolve(payload, id);
    });
    for (const { toolCallId, content } of decided.toolResults) {
      agent.addMessage({ id: crypto.randomUUID(), role: "tool", toolCallId, content });
    }
    await core.runAgent({ agent, resume: decided.resume, runId: interruptedRun });
  },
  reload: open,
  connect: async () => void (await core.connectAgent({ agent })),
  threads: async () => {
    const store = ɵcreateThreadStore({ fetch: core.ɵruntimeFetch ?? fetch });
    store.start();
    store.setContext({ runtimeUrl: scenario.url, headers: scenario.headers, agentId: scenario.agent });
    await until(() => store.getState().threads?.length || store.getState().error);
    threads = store.getState().threads;
    store.stop();
  },
};

const steps = [];
errors = [];
await open();
for (const step of scenario.steps) {
  const seen = { events: [], errors: (errors = []) };
  const subscription = agent ? watch(seen, step.stop) : null;
  await deeds[Object.keys(deeds).find((name) => name in step)](step);
  subscription?.unsubscribe();
  steps.push(seen);
}
const { messages, state, pendingInterrupts: pending = [] } = agent ?? {};
const agents = Object.fromEntries(Object.entries(core.agents).map(([id, { description }]) => [id, description]));
process.stdout.write(JSON.stringify({ agents, steps, messages, state, pending, ran, threads, warnings, errors }));
process.exit(0);
