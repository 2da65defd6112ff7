// Speaks to screen readers: whole answers and what needs attention, never single tokens.

const LONGEST = 600; // characters of an answer that are read out; the rest is in the list
const PAUSE = 400; // milliseconds in which announcements are joined

export class Announcer {
  constructor(region) {
    this.region = region;
    this.waiting = [];
    this.spoken = new Map(); // item id -> what was said about it
  }

  /** Forget what was said: what an opened session holds already is not news. */
  adopt(conversation) {
    this.spoken = new Map([...conversation.items.values()].map((item) => [item.id, topic(item)]));
  }

  draw(conversation) {
    for (const id of conversation.changed) {
      const item = conversation.items.get(id);
      const told = item && topic(item);
      if (!told || this.spoken.get(id) === told) continue;
      this.spoken.set(id, told);
      this.say(phrase(item));
    }
  }

  say(text) {
    this.waiting.push(text);
    this.timer ??= setTimeout(() => {
      this.region.textContent = this.waiting.splice(0).join(" ");
      this.timer = null;
    }, PAUSE);
  }
}

/** What about an item is worth saying now; null while it still grows. */
function topic(item) {
  if (item.kind === "notice") return "shown";
  if (item.kind === "message") return item.role === "assistant" && !item.streaming ? "complete" : null;
  if (item.kind !== "call" || item.streaming) return null;
  return item.result === null ? item.wait : "result";
}

function phrase(item) {
  switch (item.kind) {
    case "message":
      return item.text.length > LONGEST ? `${item.text.slice(0, LONGEST)} … The answer goes on.` : item.text;
    case "call":
      return callPhrase(item);
    default:
      return item.text;
  }
}

function callPhrase({ name, wait, result }) {
  if (result !== null) return `Tool ${name} has answered.`;
  if (wait === "decide") return `Tool ${name} needs your decision.`;
  return wait === "answered" ? "Your answer was sent." : `Tool ${name} waits.`;
}
