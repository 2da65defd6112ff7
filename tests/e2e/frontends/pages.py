"""Pages of front ends, run in Node, on a stack of two fronts with a backend tool that waits for its test."""

import asyncio
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from front_client import FrontClient, Json
from stack import Callboard

HERE = Path(__file__).parent
NODE_TIMEOUT = 90.0  # seconds
AGUI = "/api/v1/agent/agui"


@dataclass(frozen=True)
class Page:
    """What a page saw and holds at the end."""

    raw: Json

    @property
    def steps(self) -> list[Json]:
        return self.raw["steps"]

    @property
    def messages(self) -> list[Json]:
        return self.raw["messages"]

    @property
    def pending(self) -> list[Json]:
        return self.raw["pending"]

    def types(self, step: int = -1) -> list[str]:
        return [event["type"] for event in self.steps[step]["events"]]

    def said(self) -> list[tuple[str, Any]]:
        """Roles and contents, in order; a call shows as its name and arguments."""
        return [(message["role"], _shown(message)) for message in self.messages]

    @property
    def answer(self) -> str:
        """The last message."""
        return self.messages[-1]["content"]


def _shown(message: Json) -> Any:
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"])) for call in message.get("toolCalls", ())
    ]
    return message.get("content") or calls


async def node(script: str, scenario: Json | None = None, *, cwd: Path = HERE) -> str:
    """Run a script with this on its standard input; returns what it prints."""
    process = await asyncio.create_subprocess_exec(
        "node",
        script,
        cwd=cwd,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(NODE_TIMEOUT):
            out, problems = await process.communicate(json.dumps(scenario or {}).encode())
    except TimeoutError:
        process.kill()
        await process.communicate()
        raise
    assert process.returncode == 0, problems.decode()
    return out.decode()


@dataclass(frozen=True)
class FrontEnds:
    """One user's pages."""

    callboard: Callboard
    headers: Json

    async def http_agent(
        self, generation: str, *steps: Json, thread: str, agent: str = "demo", front: int = 0, **more: Any
    ) -> Page:
        """A page with HttpAgent, `current` or `previous`."""
        url = f"{self.callboard.fronts[front]}{AGUI}/{agent}"
        common = {"headers": self.headers, "threadId": thread, "steps": steps, **more}
        return Page(json.loads(await node("http_agent_page.mjs", {"client": generation, "url": url, **common})))

    async def copilotkit(
        self, *steps: Json, thread: str, agent: str = "demo", transport: str = "rest", front: int = 0, **more: Any
    ) -> Page:
        url = f"{self.callboard.fronts[front]}/copilotkit"
        common = {"headers": self.headers, "threadId": thread, "steps": steps, "transport": transport, **more}
        return Page(json.loads(await node("copilotkit_page.mjs", {"url": url, "agent": agent, **common})))


def need_node() -> None:
    """Skip, or on CI fail, where the clients are not installed."""
    if shutil.which("node") is None or not (HERE.parent / "node_modules" / "@copilotkit").is_dir():
        missing = "node, or its packages, are missing: run scripts/e2e_setup"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)


async def refunds(stack: Callboard, client: FrontClient) -> list[tuple[str, str]]:
    """What the tool that needs an approval did for this user."""
    rows = await stack.query("SELECT order_id, amount FROM demo_refunds WHERE user_id = $1 ORDER BY 1", client.user)
    return [(row["order_id"], f"{row['amount']:.2f}") for row in rows]
