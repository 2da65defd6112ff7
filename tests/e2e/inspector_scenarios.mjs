// What an operator does with the inspector; each returns what they then see.
import { flaws } from "./axe.mjs";

const VIEWS = ["overview", "runs", "sessions", "approvals", "webhooks", "dead-letters", "processes"];

const view = (page) => page.locator("#view").innerText();
const looked = (page) => page.waitForFunction(() => document.querySelector("#updated").textContent !== "");
const go = (page, hash) => page.evaluate((to) => { location.hash = to; }, hash);
const chip = (page, text) => page.locator(".head .chip", { hasText: text });

/** From the list of approvals into the run, and watch it go on once somebody has decided. */
export async function follow(stage) {
  const { interrupt } = stage.given;
  const page = await stage.open({ hash: "#/approvals" });
  await page.locator(`tr[data-key="${interrupt}"] a`).first().click();
  await chip(page, "awaiting input").waitFor();
  const before = await view(page);
  await page.locator(".timeline summary").first().press("Enter");
  const record = await page.locator(".timeline details[open] pre").innerText();
  const found = await flaws(page);
  await stage.shot(page, "waiting");
  await stage.mark("decide");
  await chip(page, "succeeded").waitFor();
  const unfolded = await page.locator(".timeline details[open]").count();
  const focused = await page.evaluate(() => document.activeElement.closest("details") !== null);
  await stage.shot(page, "ended");
  return { before, record, flaws: found, after: await view(page), unfolded, focused };
}

/** By keyboard: filter sessions by user, open the one there is, and go on to its run and back. */
export async function find(stage) {
  const page = await stage.open({ hash: "#/sessions" });
  await page.fill("#filter-user", stage.given.user);
  await page.press("#filter-user", "Enter");
  await page.waitForFunction((user) => {
    const rows = [...document.querySelectorAll("tbody tr")];
    return rows.length === 1 && rows[0].innerText.includes(user);
  }, stage.given.user);
  const at = await page.evaluate(() => [location.hash, document.activeElement.id]);
  await page.locator("tbody a").first().press("Enter");
  await page.locator(".head h2", { hasText: stage.given.title }).waitFor();
  await page.locator("tbody a").first().press("Enter");
  await page.locator(".said li").first().waitFor();
  const made = await page.locator("#view img, #view script").count();
  const pwned = await page.evaluate(() => window.pwned ?? null);
  const said = await page.locator(".said li").first().innerText();
  await page.goBack();
  await page.locator(".head h2", { hasText: stage.given.title }).waitFor();
  const refused = await page.evaluate(() => {
    try {
      document.body.innerHTML = "<p>";
      return "taken";
    } catch (error) {
      return error.name;
    }
  });
  return { at, made, pwned, said, refused };
}

/** A token that is none, one of a mere user, and an operator's. */
export async function signIn(stage) {
  const page = await stage.open({ token: null });
  const told = page.locator("#token-problem");
  await page.locator("#sign-in[open]").waitFor();
  const found = await flaws(page);
  const answers = [];
  for (const token of ["nonsense", stage.given.user]) {
    await page.fill("#token", token);
    await page.keyboard.press("Enter");
    await page.waitForFunction((known) => !["", known].includes(document.querySelector("#token-problem").textContent), answers.at(-1) ?? "");
    answers.push(await told.innerText());
  }
  const empty = await view(page);
  await page.fill("#token", stage.given.operator);
  await page.keyboard.press("Enter");
  await page.locator(".verdict strong").waitFor();
  const kept = await page.evaluate(() => [sessionStorage.getItem("callboard.token"), JSON.stringify({ ...localStorage })]);
  await page.click("#sign-out");
  await page.locator("#sign-in[open]").waitFor();
  const left = await page.evaluate(() => sessionStorage.getItem("callboard.token"));
  return { flaws: found, answers, empty, kept, left };
}

/** Every view, narrow and light, then wide and dark. */
export async function views(stage) {
  const told = {};
  for (const [look, options] of Object.entries({
    narrow: { viewport: { width: 360, height: 740 }, colorScheme: "light" },
    dark: { colorScheme: "dark" },
  })) {
    const page = await stage.open(options);
    await looked(page);
    for (const name of [...VIEWS, `runs/${stage.given.run}`]) {
      await page.evaluate(() => { document.querySelector("#updated").textContent = ""; });
      await go(page, `#/${name}`);
      await looked(page);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth);
      const title = await page.locator("#view h2").innerText();
      told[`${look} ${name.split("/")[0]}${name.includes("/") ? " one" : ""}`] = { wide, title: title.length > 0, flaws: await flaws(page) };
      await stage.shot(page, `${look}-${name.split("/")[0]}`);
    }
  }
  return told;
}

/** The page goes on by itself, says so when the server is away, and stops when told to. */
export async function outage(stage) {
  const page = await stage.open({ hash: "#/processes" });
  await page.locator("tbody tr").first().waitFor();
  await page.route("**/api/**", (route) => route.abort());
  await page.locator("#problem").getByText("cannot be reached").waitFor();
  const kept = await page.locator("tbody tr").count();
  await page.unroute("**/api/**");
  await page.locator("#problem").waitFor({ state: "hidden" });
  await page.click("#live");
  let asked = 0;
  await page.route("**/api/**", (route) => { asked += 1; return route.continue(); });
  await page.waitForTimeout(4000); // longer than a page that is live waits
  const still = asked;
  await page.click("#live");
  await page.waitForRequest("**/api/**");
  return { kept, still, pressed: await page.getAttribute("#live", "aria-pressed") };
}
