"""The stacks, and the browser's client in both generations that are in use."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from front_client import FrontClient, Json, fresh
from shared_stacks import SharedStacks
from stack import Callboard

HERE = Path(__file__).parent
NODE_TIMEOUT = 90.0  # seconds


@dataclass(frozen=True)
class Browser:
    """Runs scenarios in Node with the client of one generation, as one user."""

    generation: str  # current or previous
    callboard: Callboard
    headers: Json

    async def play(self, *turns: Json, agent: str = "chat", thread: str | None = None) -> Json:
        """Run the turns one after the other in one page, and return what `drive.mjs` reports."""
        scenario = {
            "client": self.generation,
            "url": f"{self.callboard.fronts[0]}/api/v1/agent/agui/{agent}",
            "headers": self.headers,
            "threadId": thread or fresh("thread"),
            "turns": turns,
        }
        process = await asyncio.create_subprocess_exec(
            "node",
            "drive.mjs",
            cwd=HERE,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(NODE_TIMEOUT):
                out, problems = await process.communicate(json.dumps(scenario).encode())
        except TimeoutError:
            process.kill()
            await process.communicate()
            raise
        assert process.returncode == 0, problems.decode()
        return json.loads(out)


def turn(text: str, run: str | None = None, **more: Any) -> Json:
    """One user message and the run that answers it."""
    run = run or fresh("run")
    return {"runId": run, "messages": [{"id": f"{run}-user", "role": "user", "content": text}], **more}


@pytest.fixture(params=["current-rabbitmq", "previous-rabbitmq", "current-embedded"])
def setting(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Generation of the client, and stack."""
    generation, stack = request.param.split("-")
    return generation, stack


@pytest.fixture
def callboard(setting: tuple[str, str], stacks: SharedStacks) -> Iterator[Callboard]:
    stack = stacks.stack(setting[1])
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
async def client(callboard: Callboard) -> AsyncIterator[FrontClient]:
    """A user of this test alone, over the REST API."""
    async with callboard.client(fresh("user")) as client:
        yield client


@pytest.fixture
def browser(setting: tuple[str, str], callboard: Callboard, client: FrontClient) -> Browser:
    """The same user in a browser."""
    if shutil.which("node") is None or not (HERE / "node_modules").is_dir():
        missing = "node, or its packages, are missing: run scripts/e2e_setup"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    return Browser(setting[0], callboard, client.headers)
