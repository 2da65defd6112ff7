// Plays scenarios in a real Chromium, one after the other, and reports what a person would have seen.
//
// In:  a JSON line per scenario, {scenario, url, token, shots?, …}; a line that answers each mark
// Out: a JSON line per mark, {mark}, and at the end of each scenario {result, problems} or {error}
import { createInterface } from "node:readline";
import { chromium } from "playwright-core";

const FLAGS = [
  "--headless",
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];
const PATIENCE = 30_000; // milliseconds

const scenarios = await import(`./${process.argv[3]}`);
const lines = createInterface({ input: process.stdin })[Symbol.asyncIterator]();
const tell = (message) => process.stdout.write(`${JSON.stringify(message)}\n`);

class Stage {
  constructor(browser, given) {
    this.browser = browser;
    this.given = given;
    this.problems = [];
    this.contexts = [];
  }

  /** A page of a new browser profile, signed in unless told otherwise. */
  async open({ token = this.given.token, hash = "", ...options } = {}) {
    const context = await this.browser.newContext({ viewport: { width: 1360, height: 820 }, ...options });
    this.contexts.push(context);
    context.setDefaultTimeout(PATIENCE);
    if (token) await context.addInitScript((value) => sessionStorage.setItem("callboard.token", value), token);
    return this.another(context, this.given.url + hash);
  }

  /** One more tab of the same profile. */
  async another(context, url) {
    const page = await context.newPage();
    page.on("pageerror", (error) => this.problems.push(String(error)));
    page.on("console", (message) => message.type() === "error" && this.problems.push(message.text()));
    await page.goto(url);
    return page;
  }

  /** Let the test do something meanwhile. */
  async mark(name) {
    tell({ mark: name });
    await lines.next();
  }

  /** Keep a picture for somebody who wants to look, if the test was asked to. */
  async shot(page, name) {
    if (this.given.shots) await page.screenshot({ path: `${this.given.shots}/${this.given.scenario}-${name}.png` });
  }

  async close() {
    await Promise.all(this.contexts.map((context) => context.close()));
  }
}

async function play(browser, given) {
  const stage = new Stage(browser, given);
  try {
    const result = await scenarios[given.scenario](stage);
    tell({ result, problems: stage.problems });
  } catch (error) {
    tell({ error: error.stack, problems: stage.problems });
  } finally {
    await stage.close();
  }
}

const browser = await chromium.launch({ executablePath: process.argv[2], args: FLAGS });
for await (const line of lines) await play(browser, JSON.parse(line));
await browser.close();
