"""`examples/copilotkit-page`: its tools and approvals, with CopilotKit's core in Node, and what its files promise."""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import pytest

from e2e.frontends.pages import HERE, node, refunds
from front_client import FrontClient, fresh
from stack import Callboard
from unit.docs_pages import ROOT

pytestmark = pytest.mark.timeout(180)
PAGE = ROOT / "examples" / "copilotkit-page"
DRIVER = """
process.env.COPILOTKIT_TELEMETRY_DISABLED = "true";
process.env.NODE_ENV = "production";
import { readFileSync } from "node:fs";
import { decision, pageTools, question } from "./tools.js";
const { url, headers, agentId, threadId } = JSON.parse(readFileSync(0, "utf8"));
globalThis.window = Object.assign(new EventTarget(), { location: new URL(url) });
const { CopilotKitCore } = await import("@copilotkit/core");
const core = new CopilotKitCore({ runtimeUrl: `${url}/copilotkit`, headers });
while (core.runtimeConnectionStatus !== "connected") await new Promise((resolve) => setTimeout(resolve, 10));
let theme = "light";
for (const tool of pageTools({ setTheme: (chosen) => (theme = chosen) })) core.addTool(tool);
const agent = Object.assign(core.getAgent(agentId), { threadId });
const say = async (content) => {
  agent.addMessage({ id: crypto.randomUUID(), role: "user", content });
  await core.runAgent({ agent });
  return agent.messages.at(-1).content;
};
const themed = await say("dark mode please");
await say("refund order 77");
const [interrupt] = agent.pendingInterrupts;
const resume = [{ interruptId: interrupt.id, status: "resolved", payload: decision(true) }];
await core.runAgent({ agent, resume });
const refunded = agent.messages.at(-1).content;
console.log(JSON.stringify({ theme, themed, asked: question(interrupt), refunded }));
process.exit(0);
"""


async def test_the_pages_tools_and_approvals(stack: Callboard, client: FrontClient) -> None:
    given = {"url": stack.fronts[0], "headers": client.headers, "agentId": _constant("AGENT"), "threadId": fresh("t")}
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        seen = json.loads(await node(write(Path(folder)), given))
    assert seen["theme"] == "dark"
    assert seen["themed"] == "The page said: the page is dark now"
    assert seen["asked"] == "May issue_refund be run with order_id 77, amount 19.90?"
    assert seen["refunded"].startswith("The refund came to:")
    assert await refunds(stack, client) == [("77", "19.90")]


def write(folder: Path) -> str:
    """The page's own tools beside a script that plays it; they find their packages from here."""
    (folder / "tools.js").write_text((PAGE / "src" / "tools.js").read_text())
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "page.mjs").write_text(DRIVER)
    return str(folder / "page.mjs")


def _constant(name: str) -> str:
    [value] = re.findall(rf'^const {name} = "(\w+)";', (PAGE / "src" / "main.jsx").read_text(), re.MULTILINE)
    return value


def test_the_lock_names_no_host_and_pins_every_package() -> None:
    lock = (PAGE / "package-lock.json").read_text()
    assert "://" not in lock, "delete the members `resolved` and `funding` from package-lock.json"
    packages = json.loads(lock)["packages"]
    assert all(entry.get("integrity") for name, entry in packages.items() if name), "a package is not pinned"
    wanted = json.loads((PAGE / "package.json").read_text())
    assert {"@copilotkit/react-core", "react", "react-dom", "zod"} == set(wanted["dependencies"])
    assert packages[""]["dependencies"] == wanted["dependencies"], "the lock is not of this package.json"


def test_its_command_is_shell() -> None:
    assert subprocess.run(["sh", "-n", PAGE / "run"], capture_output=True, text=True, check=False).stderr == ""
