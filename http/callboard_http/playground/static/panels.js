// Which panel is shown: on a wide page the inspector's tabs, on a narrow one also chat and sessions.

import { byId } from "./dom.js";

export const INSPECTOR = ["run", "events", "state", "form"];
export const PANELS = ["chat", "sessions", ...INSPECTOR];

/** The narrow page's three views, and the inspector's tabs with the keys that tabs have. */
export class Panels {
  constructor() {
    this.tabs = INSPECTOR.map((name) => byId(`tab-${name}`));
    this.tabs.forEach((tab, index) => {
      tab.addEventListener("click", () => this.show(INSPECTOR[index]));
      tab.addEventListener("keydown", (event) => this.#key(event, index));
    });
    for (const button of document.querySelectorAll("[data-view-button]")) {
      button.addEventListener("click", () => this.#view(button.dataset.viewButton));
    }
    this.#view("chat");
    this.show("run", { reveal: false });
  }

  /** Show a panel; `reveal` also turns a narrow page to it. */
  show(name, { reveal = true } = {}) {
    if (!INSPECTOR.includes(name)) {
      this.#view(name);
      return;
    }
    INSPECTOR.forEach((panel, index) => {
      const chosen = panel === name;
      this.tabs[index].setAttribute("aria-selected", String(chosen));
      this.tabs[index].tabIndex = chosen ? 0 : -1;
      byId(`panel-${panel}`).hidden = !chosen;
    });
    if (reveal) this.#view("inspector");
  }

  #view(name) {
    document.body.dataset.view = name;
    for (const button of document.querySelectorAll("[data-view-button]")) {
      if (button.dataset.viewButton === name) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  #key(event, index) {
    const last = INSPECTOR.length - 1;
    const to = { ArrowRight: index === last ? 0 : index + 1, ArrowLeft: index || last + 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const target = event.key === "ArrowLeft" ? to - 1 : to;
    this.show(INSPECTOR[target]);
    this.tabs[target].focus();
  }
}
