// A page whose tool an agent calls: `ui.draw`. Everything on it is made from the thread's messages, so a reload, a cut
// connection and the death of a worker all end in the same picture.
const server = new URLSearchParams(location.search).get("server") ?? `http://${location.hostname}:8000`;
const runs = `${server}/api/v1/agent/runs`;

const tools = [
  {
    name: "ui.draw",
    description: "Draw a shape on the page, beside those that are there.",
    parameters: {
      type: "object",
      properties: {
        shape: { type: "string", enum: ["circle", "square", "triangle"] },
        colour: { type: "string", pattern: "^[a-z]{3,20}$", description: "A colour's name in CSS" },
      },
      required: ["shape", "colour"],
      additionalProperties: false,
    },
  },
];

const threadId = (sessionStorage.thread ??= crypto.randomUUID());
let messages = [];

// -- what there is to see ---------------------------------------------------------------------------------------------

const paths = {
  circle: (x, y) => `M${x - 30} ${y} a30 30 0 1 0 60 0 a30 30 0 1 0 -60 0`,
  square: (x, y) => `M${x - 28} ${y - 28} h56 v56 h-56 z`,
  triangle: (x, y) => `M${x} ${y - 32} l32 56 h-64 z`,
};

function render() {
  const lines = messages.filter(({ role, content }) => content && role !== "tool");
  document.querySelector("#chat").replaceChildren(...lines.map(line));
  const shapes = calls().map(parsed);
  const canvas = document.querySelector("#canvas");
  canvas.replaceChildren(...shapes.map(drawn));
  const names = shapes.map(({ colour, shape }) => `${colour} ${shape}`).join(", ");
  canvas.setAttribute("aria-label", names ? `A drawing: ${names}` : "An empty drawing");
}

function line({ role, content }) {
  return Object.assign(document.createElement("p"), { className: role, textContent: content });
}

function drawn({ shape, colour }, index) {
  const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
  path.setAttribute("d", paths[shape](50 + (index % 5) * 75, 50 + Math.floor(index / 5) * 75));
  path.setAttribute("fill", colour);
  return path;
}

/** The whole calls of this page's tools. */
function calls() {
  const asked = messages.flatMap(({ toolCalls = [] }) => toolCalls);
  return asked.filter((call) => !call.open && tools.some(({ name }) => name === call.function.name) && parsed(call));
}

/** A call's arguments; undefined for one that a snapshot cut in the middle, whose rest follows. */
function parsed({ function: { arguments: given } }) {
  try {
    return JSON.parse(given);
  } catch {
    return undefined;
  }
}

// -- what the events do to the messages -------------------------------------------------------------------------------

const find = (id) => messages.find((message) => message.id === id);
const call = (id) => messages.flatMap(({ toolCalls = [] }) => toolCalls).find((one) => one.id === id);

const takes = {
  MESSAGES_SNAPSHOT: (event) => (messages = event.messages),
  TEXT_MESSAGE_START: ({ messageId, role }) => assistant(messageId, role),
  TEXT_MESSAGE_CONTENT: ({ messageId, delta }) => {
    const message = assistant(messageId);
    message.content = (message.content ?? "") + delta;
  },
  TOOL_CALL_START: ({ toolCallId, toolCallName, parentMessageId }) => {
    const { toolCalls } = assistant(parentMessageId ?? toolCallId);
    if (!call(toolCallId)) toolCalls.push({ id: toolCallId, function: { name: toolCallName, arguments: "" } });
    call(toolCallId).open = true;
  },
  TOOL_CALL_ARGS: ({ toolCallId, delta }) => (call(toolCallId).function.arguments += delta),
  TOOL_CALL_END: ({ toolCallId }) => delete call(toolCallId).open,
  TOOL_CALL_RESULT: ({ messageId, toolCallId, content }) =>
    messages.push({ id: messageId, role: "tool", toolCallId, content }),
  RUN_ERROR: ({ message }) => messages.push({ id: crypto.randomUUID(), role: "error", content: message }),
};

function assistant(id, role = "assistant") {
  if (!find(id)) messages.push({ id, role, content: "", toolCalls: [] });
  const message = find(id);
  message.toolCalls ??= [];
  return message;
}

// -- a run ------------------------------------------------------------------------------------------------------------

async function ask(text) {
  const runId = (sessionStorage.run = crypto.randomUUID());
  const message = { id: crypto.randomUUID(), role: "user", content: text };
  messages.push(message);
  render();
  await post(runs, { threadId, runId, messages: [message], tools, forwardedProps: { agentId: "chat" } });
  await follow(runId);
}

/** Read the run's leg to its end, answer what it asks of this page, and go on until nothing is asked. */
async function follow(runId) {
  await leg(runId);
  const answered = new Set(messages.map(({ toolCallId }) => toolCallId));
  const open = calls().filter(({ id }) => !answered.has(id));
  if (!open.length) return;
  const answers = open.map(({ id }) => ({ tool_call_id: id, status: "result", payload: "it is on the page" }));
  await post(`${runs}/${runId}/resume`, { answers });
  await follow(runId);
}

/** Without a cursor the stream begins with the thread as it stands; after a cut EventSource comes back with its own. */
function leg(runId) {
  const source = new EventSource(`${runs}/${runId}/events`);
  return new Promise((resolve) => {
    source.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      takes[event.type]?.(event);
      render();
      if (event.type === "RUN_FINISHED" || event.type === "RUN_ERROR") resolve(source.close());
    };
    source.onerror = () => source.readyState === EventSource.CLOSED && resolve();
  });
}

async function post(url, body) {
  const response = await fetch(url, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
  });
  if (!response.ok) throw new Error((await response.json()).detail ?? response.statusText);
}

async function shown(work) {
  try {
    await work();
  } catch (error) {
    takes.RUN_ERROR({ message: error.message });
  }
  render();
}

document.querySelector("#ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const field = document.querySelector("#text");
  void shown(() => ask(field.value));
  field.value = "";
});
if (sessionStorage.run) void shown(() => follow(sessionStorage.run));
