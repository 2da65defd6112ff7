"""The code in docs/frontends does what the pages say."""

import tempfile
from pathlib import Path

import pytest

from e2e.frontends.pages import HERE, FrontEnds, node
from front_client import FrontClient, fresh
from stack import Callboard
from unit.docs_pages import ROOT, blocks

pytestmark = pytest.mark.timeout(180)
PAGES = ROOT / "docs" / "frontends"
BROWSER = """
import { EventSource } from "eventsource";
process.env.COPILOTKIT_TELEMETRY_DISABLED = "true";
process.env.NODE_ENV = "production";
globalThis.window ??= Object.assign(new EventTarget(), { location: new URL("https://agents.example.com") });
globalThis.EventSource ??= EventSource;
"""


async def run(page: str, stack: Callboard, client: FrontClient, generation: str = "current") -> list[str]:
    """What a page's code prints, with this stack's address, user and client; every run in a thread of its own."""
    real = {
        "https://agents.example.com": stack.fronts[0],
        "Bearer my-token": client.headers["Authorization"],
        "my-thread": fresh("thread"),
        "@ag-ui/client": f"agui-client-{generation}",
    }
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        return (await node(write(Path(folder), page, real))).splitlines()


def write(folder: Path, page: str, real: dict[str, str]) -> str:
    """The page's code as a script, with what is told replaced by what is real."""
    code = "\n".join(['import "./browser.mjs";', *blocks(PAGES / page, "js"), "process.exit(0);"])
    for told, meant in real.items():
        code = code.replace(told, meant)
    (folder / "browser.mjs").write_text(BROWSER)
    (folder / "page.mjs").write_text(code)
    return str(folder / "page.mjs")


async def test_http_agent(stack: Callboard, client: FrontClient, generation: str) -> None:
    time, theme, asked, refund, whole = await run("http-agent.md", stack, client, generation)
    assert time.endswith("UTC.")
    assert theme == "The page said: the page is dark now"
    assert asked == "issue_refund 19.90"
    assert refund.startswith("The refund came to:")
    assert whole == "true"


async def test_copilotkit(stack: Callboard, client: FrontClient) -> None:
    [time] = await run("copilotkit.md", stack, client)
    assert time.endswith("UTC.")


async def test_event_source(stack: Callboard, client: FrontClient) -> None:
    assert await run("event-source.md", stack, client) == ["1 2 3 4 5", "RUN_STARTED RUN_FINISHED"]


async def test_every_page_is_run(pages: FrontEnds) -> None:
    assert {page.name for page in PAGES.glob("*.md")} == {"http-agent.md", "copilotkit.md", "event-source.md"}
