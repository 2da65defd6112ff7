"""What a worker process must not do: dial out, write into HOME, start threads per run; and the trims' guards."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import pytest

from callboard_runtime.crew import trims
from callboard_runtime.crew.runtime import CrewAIRuntime

from .crew_world import CREWAI_WARNS, brief, config, run

pytestmark = CREWAI_WARNS

AUDITED = """
import asyncio, os, sys
home = os.environ["HOME"]
dialled, written = [], []
def hook(event, args):
    if event in ("socket.connect", "socket.getaddrinfo"):
        dialled.append((event, str(args[1:])))
    if event == "open" and isinstance(args[1], str) and set(args[1]) & set("wax+") and str(args[0]).startswith(home):
        written.append(args[0])
    if event in ("os.mkdir", "sqlite3.connect") and str(args[0]).startswith(home):
        written.append(args[0])
sys.addaudithook(hook)
from callboard_runtime.llm.setup import warm_up
warm_up()
from callboard_runtime.config.resolver import resolve_agent_runtime_config
from callboard_runtime.crew.runtime import CrewAIRuntime
from callboard_runtime.settings import Settings
resolved = resolve_agent_runtime_config([{"agent_type": "intent", "model_code": "scripted"},
                                         {"agent_type": "answer", "model_code": "scripted"}])
outcome = asyncio.run(CrewAIRuntime(resolved, settings=Settings()).run())
print("outcome", outcome.status)
print("dialled", dialled)
print("written", written)
print("home", os.environ["HOME"] == home, sorted(os.listdir(home)))
print("otel", os.environ.get("OTEL_SDK_DISABLED"))
import signal
print("signals", signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
"""


def test_a_run_dials_nobody_and_leaves_home_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    environ = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "CALLBOARD_"))}
    done = subprocess.run(
        [sys.executable, "-c", AUDITED],
        env=environ | {"HOME": str(home), "CALLBOARD_ENV_FILE": ""},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines())
    assert said["outcome"] == "finished"
    assert said["dialled"] == "[]"
    assert said["written"] == "[]"
    assert said["home"] == "True []"
    assert said["otel"] == "None"
    assert said["signals"] == "True"


def test_home_may_be_read_only(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    program = "from callboard_runtime.llm.setup import load; load()"
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"HOME": str(home)}, timeout=110, check=True)


# -- guards of the trims ----------------------------------------------------------------------------------------------


def test_the_trims_were_checked_against_this_crewai() -> None:
    assert version("crewai") == trims.CHECKED_VERSION, (
        "CrewAI is another version: run these guards, measure a kickoff again, then raise CHECKED_VERSION"
    )


async def test_a_run_starts_no_thread_of_its_own() -> None:
    """The event loop's pool, which all runs share and which is bounded, may grow with how many are at work."""
    await run(brief("count to 2"))
    started: list[str] = []
    real = threading.Thread.start
    try:
        threading.Thread.start = lambda self: (started.append(self.name), real(self))[1]  # type: ignore[method-assign]
        await asyncio.gather(*(run(brief("count to 2")) for _ in range(5)))
    finally:
        threading.Thread.start = real  # type: ignore[method-assign]
    assert [name for name in started if not name.startswith("asyncio_")] == []


def test_crewais_own_listeners_are_gone_and_others_are_heard() -> None:
    from crewai.events import CrewKickoffStartedEvent
    from crewai.events.event_bus import crewai_event_bus

    trims.apply_trims()
    heard: list[str] = []
    done = threading.Event()

    def listen(source: object, event: CrewKickoffStartedEvent) -> None:
        heard.append(event.type)
        done.set()

    crewai_event_bus.register_handler(CrewKickoffStartedEvent, listen)
    try:
        asyncio.run(CrewAIRuntime(config()).run())
        assert done.wait(20)
    finally:
        crewai_event_bus.off(CrewKickoffStartedEvent, listen)
    assert heard == ["crew_kickoff_started"]


def test_the_bus_keeps_no_event() -> None:
    from crewai.events.event_bus import CrewAIEventsBus

    assert CrewAIEventsBus._record_event is trims._nothing  # pyright: ignore[reportPrivateUsage]
    assert CrewAIEventsBus._register_source is trims._nothing  # pyright: ignore[reportPrivateUsage]


def test_a_crew_opens_no_task_database() -> None:
    crew = CrewAIRuntime(config()).build_crew(message="hi")
    assert isinstance(crew._task_output_handler, trims.NoTaskOutputs)  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def test_an_executor_makes_no_new_state_class() -> None:
    crew = CrewAIRuntime(config()).build_crew(message="hi")
    agent = crew.agents[0]
    agent.create_agent_executor()
    executor = agent.agent_executor
    assert executor is not None
    assert type(executor._state) is trims.AgentExecutorState  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
