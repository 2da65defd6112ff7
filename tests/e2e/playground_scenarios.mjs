// What a person does with the playground; each returns what they then see.
import { flaws } from "./axe.mjs";

async function say(page, text, agent = "chat") {
  await page.selectOption("#agent", agent);
  await page.fill("#message", text);
  await page.press("#message", "Enter");
}

const shown = (page, text) => page.locator("#log").getByText(text).first().waitFor();
const conversation = (page) => page.locator("#log").innerText();
const books = (page) => page.evaluate(() => document.querySelector("#panel-events .hint").textContent);
const idle = (page) => page.waitForFunction(() => document.querySelector("#connection").textContent === "idle");
const focused = (page) => page.evaluate(() => document.activeElement.closest("[aria-label]")?.getAttribute("aria-label"));

/** Approve with edits, by keyboard alone. */
export async function approval(stage) {
  const page = await stage.open({ colorScheme: "light" });
  await page.locator("#examples button").first().waitFor();
  await stage.shot(page, "empty");
  await say(page, "Refund order 77, and use the dark theme", "demo");
  await page.locator("form.decision").waitFor();
  await page.waitForFunction(() => document.activeElement.matches(".call"));
  const at = await focused(page);
  const theme = await page.evaluate(() => document.documentElement.dataset.theme);
  await stage.shot(page, "open");
  const found = await flaws(page);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Tab");
  await page.keyboard.type("5.00");
  const button = await page.locator("form.decision button.primary").innerText();
  await page.keyboard.press("Enter");
  await shown(page, "All of it is settled");
  await idle(page);
  const back = await page.evaluate(() => document.activeElement.id);
  await page.click("#tab-state");
  const state = await page.locator("#panel-state pre").innerText();
  await page.click("#tab-run");
  await page.locator(".run .chip", { hasText: "succeeded" }).waitFor();
  const run = await page.locator(".run").innerText();
  await page.waitForFunction(() => document.querySelector("#announcer").textContent.includes("settled"));
  await stage.shot(page, "done");
  return { at, theme, flaws: found, button, back, state: JSON.parse(state), run, text: await conversation(page), books: await books(page) };
}

/** Reject with a reason; then look at the session again from its link. */
export async function rejection(stage) {
  const page = await stage.open();
  await say(page, 'call refund with {"amount": 5}');
  await page.locator("form.decision").waitFor();
  const again = await stage.another(page.context(), page.url());
  await again.locator("form.decision").waitFor();
  await page.getByLabel("Reason, if you reject").fill("far too much");
  await page.getByRole("button", { name: "Reject", exact: true }).click();
  await shown(page, "far too much");
  await again.locator("#log").getByText("far too much").first().waitFor();
  await idle(page);
  await page.reload();
  await shown(page, "far too much");
  return { here: await conversation(page), there: await conversation(again), forms: await again.locator("form.decision").count() };
}

/** Stream while the connection is dropped by the person and cut by the network, with a second tab that follows. */
export async function reconnect(stage) {
  const page = await stage.open();
  await say(page, "count to 40 at 60 ms");
  await shown(page, "1 2 3 4 5");
  await page.click("#stream");
  await page.locator("#banner").getByText("The stream was dropped").waitFor();
  const frozen = await conversation(page);
  const two = await stage.another(page.context(), page.url());
  await two.locator("#log").getByText("1 2 3 4 5 6 7 8").waitFor();
  const still = (await conversation(page)) === frozen;
  await page.click("#stream");
  await shown(page, "10 11 12 13 14 15");
  await stage.mark("cut");
  await shown(page, "39 40");
  await two.locator("#log").getByText("39 40").waitFor();
  await idle(page);
  await idle(two);
  const first = await conversation(page);
  await say(two, "hello");
  await shown(page, "I am the scripted model");
  await shown(two, "I am the scripted model");
  return { still, first, texts: [await conversation(page), await conversation(two)], books: [await books(page), await books(two)], thread: page.url().split("#")[1] };
}

/** Cancel with Escape. */
export async function cancel(stage) {
  const page = await stage.open();
  await say(page, "count to 500 at 40 ms");
  await shown(page, "1 2 3 4 5");
  await page.press("#message", "Escape");
  await shown(page, "The run was cancelled.");
  await page.locator(".run .chip", { hasText: "cancelled" }).first().waitFor();
  await say(page, "hello");
  await shown(page, "I am the scripted model");
  return { text: await conversation(page), books: await books(page) };
}

/** Queue a run behind one that waits for a decision, and cancel both. */
export async function queue(stage) {
  const page = await stage.open();
  await say(page, 'call refund with {"amount": 5}');
  await page.locator("form.decision").waitFor();
  await page.selectOption("#strategy", "enqueue");
  await say(page, "count to 500 at 40 ms");
  await page.locator(".message .note", { hasText: "queued" }).waitFor();
  await page.click("#cancel");
  await shown(page, "1 2 3 4 5");
  await page.click("#cancel");
  await page.locator(".notice").nth(1).waitFor();
  await idle(page);
  const all = (selector) => page.locator(selector).allInnerTexts();
  return { notices: await all(".notice"), chips: await all(".call .chip"), forms: await page.locator("form.decision").count() };
}

/** The page's own tools do what can be seen; a second tab looks on without doing it again. */
export async function tools(stage) {
  const page = await stage.open();
  await say(page, 'call ui.fill_form with {"name": "Ada", "topic": "<b>Invoice</b>"}');
  await shown(page, "The tool answered");
  const form = [await page.inputValue("#form-name"), await page.inputValue("#form-topic")];
  const panel = await page.locator("#panel-form").isVisible();
  await say(page, 'call ui.navigate with {"panel": "events"}');
  await page.locator("#panel-events").waitFor({ state: "visible" });
  await idle(page);
  await page.goto(`${stage.given.url}#${stage.given.thread}`);
  await page.reload();
  await page.getByRole("button", { name: "Run it in this tab" }).click();
  await shown(page, "The tool answered");
  return { form, panel, theme: await page.evaluate(() => document.documentElement.dataset.theme) };
}

/** Text of a model is text, whatever is in it. */
export async function escaping(stage) {
  const page = await stage.open();
  await say(page, stage.given.text);
  await shown(page, "You said:");
  const made = await page.locator("#log :is(img, script, iframe, a, style)").count();
  const refused = await page.evaluate(() => {
    try {
      document.createElement("p").innerHTML = "<b>x</b>";
      return "taken";
    } catch (error) {
      return error.name;
    }
  });
  return { made, refused, text: await conversation(page), pwned: await page.evaluate(() => window.pwned ?? null) };
}

/** Ask for a token, refuse a wrong one, and keep the right one in this tab alone. */
export async function signIn(stage) {
  const page = await stage.open({ token: null });
  await page.locator("#sign-in").waitFor();
  await page.keyboard.type("not-a-token");
  await page.keyboard.press("Enter");
  await page.locator("#token-problem").getByText("not accepted").waitFor();
  const found = await flaws(page);
  await page.fill("#token", stage.given.right);
  await page.keyboard.press("Enter");
  await page.locator("#sign-in").waitFor({ state: "hidden" });
  await say(page, "hello");
  await shown(page, "I am the scripted model");
  const kept = await page.evaluate(() => [sessionStorage.getItem("callboard.token"), JSON.stringify(localStorage)]);
  return { flaws: found, kept };
}

/** 360 pixels wide, dark: every view fits and is reached; reasoning unfolds. */
export async function narrow(stage) {
  const page = await stage.open({ viewport: { width: 360, height: 740 }, colorScheme: "dark" });
  await say(page, "think about the tides", "default");
  await shown(page, "I have thought about it");
  const thought = page.locator(".reasoning .text");
  const folded = !(await thought.isVisible());
  await page.locator(".reasoning summary").click();
  const unfolded = await thought.innerText();
  const views = {};
  for (const view of ["chat", "sessions", "inspector"]) {
    await page.click(`[data-view-button="${view}"]`);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    views[view] = { wide, flaws: await flaws(page), visible: await page.locator(`.${view}`).isVisible() };
    await stage.shot(page, view);
  }
  return { folded, unfolded, views };
}

/** JSON Patch as the state panel applies it: the results, or the errors, of the cases. */
export async function patches(stage) {
  const page = await stage.open();
  return page.evaluate(async (cases) => {
    const { applyPatch } = await import("/playground/patch.js");
    return cases.map(({ document, patch }) => {
      const before = JSON.stringify(document);
      try {
        return { result: applyPatch(document, patch), untouched: JSON.stringify(document) === before };
      } catch (error) {
        return { error: error.message, untouched: JSON.stringify(document) === before };
      }
    });
  }, stage.given.cases);
}
