// Puts the page together: the hash names the view, the view says what it asks, and asks again while the page is live.

import { ApiError } from "../playground/api.js";
import { byId } from "../playground/dom.js";
import { startTheme } from "../playground/theme.js";
import { OperatorApi } from "./api.js";
import { tickTimes } from "./format.js";
import { Place } from "./place.js";
import { SignIn } from "./sign_in.js";
import { ApprovalsView } from "./views/approvals.js";
import { DeadLetterView } from "./views/dead_letter.js";
import { DeadLettersView } from "./views/dead_letters.js";
import { OverviewView } from "./views/overview.js";
import { ProcessesView } from "./views/processes.js";
import { RunView } from "./views/run.js";
import { RunsView } from "./views/runs.js";
import { SessionView } from "./views/session.js";
import { SessionsView } from "./views/sessions.js";
import { WebhooksView } from "./views/webhooks.js";

const REFRESH = 3000; // milliseconds between the end of one look and the next
const TICK = 1000;
const VIEWS = {
  overview: { list: OverviewView },
  runs: { list: RunsView, one: RunView },
  sessions: { list: SessionsView, one: SessionView },
  approvals: { list: ApprovalsView },
  "dead-letters": { list: DeadLettersView, one: DeadLetterView },
  webhooks: { list: WebhooksView },
  processes: { list: ProcessesView },
};

class App {
  constructor() {
    this.api = new OperatorApi();
    this.signIn = new SignIn(this.api);
    this.live = true;
    this.shown = 0; // counts views: an answer that comes after its view has gone is dropped
  }

  async start() {
    startTheme(byId("theme"));
    byId("skip").addEventListener("click", (event) => this.#skip(event));
    byId("live").addEventListener("click", () => this.#toggleLive());
    addEventListener("hashchange", () => this.#open());
    document.addEventListener("visibilitychange", () => document.hidden || this.#soon(0));
    setInterval(() => tickTimes(document), TICK);
    await this.signIn.first();
    await this.#open({ first: true });
  }

  async #open({ first = false } = {}) {
    const place = Place.here();
    const kind = VIEWS[place.section]?.[place.id ? "one" : "list"];
    if (!kind) {
      location.replace("#/overview");
      return;
    }
    this.shown += 1;
    this.view = new kind(this.api, place);
    byId("view").replaceChildren(this.view.node);
    this.#markPlace(place.section);
    document.title = `${this.view.title} · Callboard inspector`;
    scrollTo(0, 0);
    if (!first && !place.filtering) byId("content").focus({ preventScroll: true });
    await this.#look({ announce: true });
  }

  /** Ask what the view shows; the next look comes when this one is done, never two at once. */
  async #look({ announce = false } = {}) {
    const shown = this.shown;
    clearTimeout(this.next);
    try {
      const summary = await this.view.load();
      if (shown !== this.shown) return;
      this.#tell("");
      byId("updated").textContent = new Date().toLocaleTimeString();
      if (announce && summary) byId("announcer").textContent = summary;
    } catch (error) {
      if (shown !== this.shown) return;
      await this.#failed(error);
    }
    tickTimes(document);
    this.#soon(REFRESH);
  }

  #soon(wait) {
    clearTimeout(this.next);
    if (this.live && this.view?.repeats !== false) this.next = setTimeout(() => (document.hidden ? null : this.#look()), wait);
  }

  async #failed(error) {
    if (error instanceof ApiError && error.status === 401) await this.signIn.again();
    this.#tell(error instanceof TypeError ? "The server cannot be reached; trying again." : error.message);
    if (!(error instanceof ApiError) && !(error instanceof TypeError)) console.error(error);
  }

  #tell(problem) {
    const banner = byId("problem");
    if (banner.textContent === problem) return;
    banner.textContent = problem;
    banner.hidden = !problem;
    if (problem) byId("announcer").textContent = problem;
  }

  #markPlace(section) {
    for (const link of document.querySelectorAll(".places a")) {
      const here = link.getAttribute("href") === `#/${section}`;
      if (here) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
      if (here) link.scrollIntoView({ block: "nearest", inline: "center" });
    }
  }

  #toggleLive() {
    this.live = !this.live;
    byId("live").setAttribute("aria-pressed", String(this.live));
    if (this.live) this.#look();
    else clearTimeout(this.next);
  }

  /** The hash names the view, so this link cannot use it. */
  #skip(event) {
    event.preventDefault();
    byId("content").focus();
  }
}

new App().start().catch((error) => {
  console.error(error);
  byId("problem").textContent = error.message;
  byId("problem").hidden = false;
});
