// Puts the page together: one session at a time, its views, and what the person does.

import { Api } from "./api.js";
import { byId, freshId, h } from "./dom.js";
import { Panels } from "./panels.js";
import { Session } from "./session.js";
import { SignIn } from "./sign_in.js";
import { setTheme, startTheme } from "./theme.js";
import { PageTools } from "./tools.js";
import { Announcer } from "./views/announcer.js";
import { ChatView } from "./views/chat.js";
import { Composer } from "./views/composer.js";
import { EventPanel } from "./views/event_panel.js";
import { FormPanel } from "./views/form_panel.js";
import { RunPanel } from "./views/run_panel.js";
import { SessionList } from "./views/session_list.js";
import { StatePanel } from "./views/state_panel.js";
import { Toolbar } from "./views/toolbar.js";

const DRAW_EVERY = 40; // milliseconds
const LIST_EVERY = 10_000;

class App {
  constructor() {
    this.api = new Api();
    this.panels = new Panels();
    this.form = new FormPanel(byId("panel-form"));
    this.tools = new PageTools({
      showPanel: (name) => this.panels.show(name),
      setTheme: (name) => setTheme(name, byId("theme")),
      fillForm: (values) => this.#fillForm(values),
    });
    this.announcer = new Announcer(byId("announcer"));
    this.signIn = new SignIn(this.api);
    this.chat = new ChatView(byId("log"), byId("scroller"), {
      decide: (call, payload) => this.#answer(() => this.session.decide(call, payload)),
      runHere: (call) => this.#answer(() => this.session.runHere(call)),
    });
    this.inspector = [new RunPanel(byId("panel-run")), new EventPanel(byId("panel-events")), new StatePanel(byId("panel-state"))];
    this.sessions = new SessionList(byId("session-list"), this.api, (error) => this.failed(error));
    this.toolbar = new Toolbar({ stream: () => this.#toggleStream() });
    this.composer = new Composer({
      send: (text, strategy) => this.#send(text, strategy),
      failed: (error) => this.failed(error),
      cancel: () => this.#cancel(),
    });
  }

  async start() {
    startTheme(byId("theme"));
    this.#offer(await this.signIn.first());
    byId("new-session").addEventListener("click", () => this.#newSession());
    byId("skip").addEventListener("click", (event) => this.#skip(event));
    addEventListener("hashchange", () => this.#open());
    document.addEventListener("visibilitychange", () => this.session?.look());
    this.#open();
    setInterval(() => document.hidden || this.sessions.refresh(), LIST_EVERY);
  }

  /** Tell the person; a token that is no longer accepted is asked for again. */
  failed(error) {
    if (error.status === 401) this.signIn.again();
    if (error.message === this.toolbar.problem) return; // said already
    console.error(error);
    this.toolbar.tell(error.message);
    this.announcer.say(error.message);
  }

  #offer({ agents, examples }) {
    byId("agent").replaceChildren(...agents.map(({ id, description }) => h("option", { value: id, title: description }, id)));
    const buttons = examples.map((text) => h("button", { type: "button", onclick: () => this.composer.fill(text) }, text));
    byId("examples").replaceChildren(...buttons);
  }

  #open({ isNew = false } = {}) {
    const threadId = decodeURIComponent(location.hash.slice(1));
    if (!threadId) {
      this.#newSession();
      return;
    }
    this.session?.close();
    this.chat.clear();
    this.adopted = false;
    const tell = { changed: () => this.#drawSoon(), failed: (error) => this.failed(error) };
    this.session = new Session(this.api, this.tools, threadId, tell);
    this.sessions.current = threadId;
    this.sessions.refresh();
    this.toolbar.clear();
    this.session.start({ isNew });
    this.#drawSoon();
  }

  #newSession() {
    history.replaceState(null, "", `#${freshId("s")}`);
    this.#open({ isNew: true });
    this.panels.show("chat");
    byId("message").focus();
  }

  /** The hash names the session, so this link cannot use it. */
  #skip(event) {
    event.preventDefault();
    this.panels.show("chat");
    byId("message").focus();
  }

  async #send(text, strategy) {
    this.toolbar.clear();
    await this.session.send(text, { agentId: byId("agent").value, strategy });
    this.chat.toEnd();
    this.sessions.refresh();
  }

  async #cancel() {
    if (!this.session.activeRun) return;
    this.announcer.say("Cancelling the run.");
    await this.#guarded(() => this.session.cancel());
  }

  async #answer(action) {
    byId("message").focus();
    await this.#guarded(action);
  }

  async #guarded(action) {
    this.toolbar.clear();
    try {
      await action();
    } catch (error) {
      this.failed(error);
    }
    this.sessions.refresh();
  }

  #toggleStream() {
    if (this.session.connection === "dropped") this.session.reconnect();
    else this.session.drop();
  }

  #fillForm(values) {
    this.panels.show("form");
    return this.form.fill(values);
  }

  // -- drawing ----------------------------------------------------------------------------------------------------------

  /** A timer, not an animation frame: a tab in the background shall be up to date when it is looked at. */
  #drawSoon() {
    this.drawing ??= setTimeout(() => {
      this.drawing = null;
      this.#draw();
    }, DRAW_EVERY);
  }

  #draw() {
    const { session } = this;
    const { conversation } = session;
    const wanted = this.#callThatWants(conversation);
    if (this.adopted) this.announcer.draw(conversation);
    else if (!session.loading) this.#adopt(conversation);
    byId("welcome").hidden = session.loading || conversation.items.size > 0;
    this.chat.draw(conversation);
    for (const panel of this.inspector) panel.draw(session);
    this.toolbar.draw(session);
    this.composer.draw(session);
    if (wanted && this.composer.idle) this.chat.card(wanted).focus();
    if (session.connection !== this.lastConnection) this.sessions.refresh();
    this.lastConnection = session.connection;
  }

  #adopt(conversation) {
    this.adopted = true;
    this.announcer.adopt(conversation);
  }

  /** A decision that has just become due: focus goes there, unless the person is at work elsewhere. */
  #callThatWants(conversation) {
    return [...conversation.changed].find((id) => conversation.items.get(id)?.wait === "decide");
  }
}

const app = new App();
app.start().catch((error) => app.failed(error));
