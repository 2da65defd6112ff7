// What a person does with the pages of `examples/`. Each gets a Stage and returns what was seen.

const shapes = (page) =>
  page.locator("#canvas path").evaluateAll((paths) => paths.map((path) => path.getAttribute("fill")));
const chat = (page) => page.locator("#chat p").allInnerTexts();

/** Ask for shapes, see them, and find them again after a reload. */
export async function browser_tool(stage) {
  const page = await stage.open({ token: null });
  await page.getByRole("button", { name: "Ask" }).click();
  await page.getByText("A red circle is on the page.").waitFor();
  await page.getByLabel("What to draw").fill("draw a blue square and a green triangle");
  await page.keyboard.press("Enter");
  await page.getByText("A blue square and a green triangle are on the page.").waitFor();
  const before = { shapes: await shapes(page), chat: await chat(page) };
  await page.reload();
  await page.getByText("A blue square and a green triangle are on the page.").waitFor();
  const label = await page.getByRole("img").getAttribute("aria-label");
  await stage.shot(page, "page");
  return { before, after: { shapes: await shapes(page), chat: await chat(page) }, label };
}
