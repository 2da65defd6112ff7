"""Every folder of `examples/` by its one command, and what its README says happens then."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from callboard_runtime.client import CallboardClient
from callboard_runtime.embedded.paths import free_port
from e2e.driving import Driver, find_chromium
from front_client import Json, fresh
from shared_stacks import SharedStacks
from unit.docs_pages import ROOT

pytestmark = pytest.mark.timeout(240)
EXAMPLES = ROOT / "examples"
PATIENCE = 120.0  # seconds until everything is up; CrewAI is imported, and the machine may be busy


@dataclass
class Example:
    """A running example, and what it printed."""

    process: asyncio.subprocess.Process
    said: str = ""

    async def says(self, pattern: str) -> str:
        """Read on until this was printed, and return its first group."""
        assert self.process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            while not (found := re.search(pattern, self.said)):
                line = (await self.process.stdout.readline()).decode()
                assert line, f"it ended before it printed {pattern}:\n{self.said}"
                self.said += line
        return found[1] if found.groups() else found[0]

    async def ends(self) -> int | None:
        """Its exit code, when it has read its input or was told to end."""
        async with asyncio.timeout(PATIENCE):
            rest, _ = await self.process.communicate()
        self.said += rest.decode()
        return self.process.returncode


@contextlib.asynccontextmanager
async def running(name: str, environment: Mapping[str, str] | None = None, *arguments: str) -> AsyncIterator[Example]:
    """`examples/<name>/run`, ended as Ctrl-C in a terminal ends it; it leaves no process behind."""
    process = await asyncio.create_subprocess_exec(
        EXAMPLES / name / "run", "--port", "0", *arguments,
        env={**os.environ, "CALLBOARD_ENV_FILE": "", **(environment or {})},
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    example = Example(process)
    try:
        yield example
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGINT)
            assert await example.ends() == 0, example.said
        with pytest.raises(ProcessLookupError):
            os.killpg(process.pid, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()


@pytest.fixture(scope="module")
def data() -> Iterator[str]:
    """Of the embedded services; PostgreSQL's account must reach it."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"callboard-examples-{os.getpid()}"
    yield str(folder)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def real(stacks: SharedStacks) -> Mapping[str, str]:
    """Settings that name services of this module's own."""
    return stacks.real().environment()


@pytest.fixture
def driver() -> Iterator[Driver]:
    driver = Driver(find_chromium(), "example_scenarios.mjs")
    yield driver
    driver.close()


def test_every_example_is_tried_and_told() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    assert folders == {"broker-only", "browser-tool", "copilotkit-page", "support-desk"}
    told = (EXAMPLES / "README.md").read_text()
    for name in folders:
        assert f"`examples/{name}/run`" in told
        assert os.access(EXAMPLES / name / "run", os.X_OK)


async def test_the_support_desk_pays_back_what_a_person_approved(data: str, tmp_path: Path) -> None:
    refunds = tmp_path / "refunds.sqlite"
    settings = {"SUPPORT_DESK_DATA": str(refunds)}
    async with running("support-desk", settings, "--data-dir", data) as example:
        url = await example.says(r"playground: (http://\S+)")
        async with CallboardClient(url) as client:
            assert "on its way" in (await turn(client, "Where is my order 1002?"))[0]
            run = await client.post_run(fresh("t"), "A refund for order 1003, it is broken", agent_id="support")
            _, asked = await leg(client, run.run_id)
            [interrupt] = asked["outcome"]["interrupts"]
            assert interrupt["metadata"] == {
                "toolName": "refund_order",
                "args": {"order_id": "1003", "amount": "12.90"},
            }
            assert not refunds.exists(), "nothing is paid back before somebody approves"
            edited = {"order_id": "1003", "amount": "10.00"}
            await client.approve(run.run_id, interrupt["id"], edited_args=edited)
            text, _ = await leg(client, run.run_id)
            assert "Paid back 10.00 for order 1003." in text
    with contextlib.closing(sqlite3.connect(refunds)) as database:
        assert database.execute("SELECT order_id, cents FROM refunds").fetchall() == [("1003", 1000)]


async def turn(client: CallboardClient, text: str) -> tuple[str, Json]:
    run = await client.post_run(fresh("t"), text, agent_id="support")
    return await leg(client, run.run_id)


async def leg(client: CallboardClient, run: str) -> tuple[str, Json]:
    """A leg's text and its closing event."""
    events = [event.data async for event in client.events(run)]
    return "".join(e["delta"] for e in events if e["type"] == "TEXT_MESSAGE_CONTENT"), dict(events[-1])


async def test_the_browser_tool_draws_and_finds_its_drawing_again(driver: Driver, real: Mapping[str, str]) -> None:
    port = free_port()
    async with running("browser-tool", {**real, "PAGE_PORT": str(port)}) as example:
        server = await example.says(r"playground: (http://\S+)")
        page = f"http://127.0.0.1:{port}/?server={server}"
        shots = os.environ.get("CALLBOARD_TEST_SHOTS")
        told = await driver.play({"scenario": "browser_tool", "url": page, "shots": shots}, {})
    assert told["problems"] == []
    assert told["result"]["before"] == told["result"]["after"]
    assert told["result"]["before"]["shapes"] == ["red", "blue", "green"]
    assert told["result"]["label"] == "A drawing: red circle, blue square, green triangle"


async def test_a_program_asks_and_hears_of_runs_over_the_broker_alone(data: str) -> None:
    async with running("broker-only", {}, "--data-dir", data) as example:
        await example.says("Type what to ask")
        assert example.process.stdin is not None
        example.process.stdin.write(b"count to 3\nfail 401\n")
        example.process.stdin.close()
        assert await example.ends() == 0
    said = [json.loads(line) for line in example.said.splitlines() if line.startswith("{")]
    first, second = [line["reply"]["run_id"] for line in said if line.get("status") == 202]
    became = [(line["run_id"], line["type"]) for line in said if "type" in line]
    assert [kind for run, kind in became if run == first] == ["run.started", "run.finished"]
    assert [kind for run, kind in became if run == second] == ["run.started", "run.failed"]
