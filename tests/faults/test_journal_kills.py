"""A worker is killed at each named point around a model call and a tool call.

The model server and a table of the tool's keep the books: nothing recorded is asked or done again, what was lost is
counted, and the run ends as if nothing had been.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from callboard_runtime.faults import POINTS
from faults.support import attempts, check_calls
from faults.test_tools import check_legs, interrupts, resume, status
from front_client import FrontClient, Json, fresh
from model_server import ANSWER, INPUT_TOKENS, OUTPUT_TOKENS, ModelServer
from promises import check_reader, ended
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(180)


@dataclass(frozen=True)
class Kill:
    """A death at the n-th passage of a point, and what the books say in the end."""

    point: str
    passage: int = 1
    requests: int = 2  # that the provider saw: the one that asks for the tool, the one that answers
    lost: int = 0  # model calls
    unknown: str | None = None  # the tool's outcome is: what a human says about it
    started: int = 1  # the tool, in all
    outcomes: tuple[str, ...] = ("superseded", "finished")

    def __str__(self) -> str:
        return f"{self.point}-{self.passage}"


KILLS = (
    Kill("before_model_request", 1, lost=1),
    Kill("before_model_request", 2, lost=1),
    Kill("after_model_answer", 1, requests=3, lost=1),
    Kill("after_model_answer", 2, requests=3, lost=1),
    Kill("model_record_held", 1, requests=3, lost=1),
    Kill("model_record_held", 2, requests=3, lost=1),
    Kill("before_tool", unknown="retry", outcomes=("superseded", "paused", "finished")),
    Kill("inside_tool", unknown="result", outcomes=("superseded", "paused", "finished")),
    Kill("after_tool", unknown="result", outcomes=("superseded", "paused", "finished")),
    Kill("after_tool_record"),
    Kill("before_end", requests=3, lost=1),  # the record of the last answer travels with the end
    Kill("after_end", outcomes=("finished",)),
)


def test_every_point_has_its_kill() -> None:
    assert {kill.point for kill in KILLS} | {"during_replay"} == set(POINTS)


@pytest.fixture(autouse=True)
async def ledger(callboard: Callboard) -> None:
    await callboard.query("CREATE TABLE IF NOT EXISTS ledger (label TEXT, tool_call_id TEXT)")


async def starts(callboard: Callboard, label: str) -> list[str]:
    """The ids of the calls for which the tool was started."""
    return [row["tool_call_id"] for row in await callboard.query("SELECT * FROM ledger WHERE label = $1", label)]


async def decide(client: FrontClient, thread: str, run: str, said: str) -> None:
    """A human says what is to become of the call whose outcome nobody knows."""
    await status(client, run, "awaiting_input")
    [interrupt] = interrupts((await client.log(thread))[-1])
    assert interrupt["reason"] == "callboard:tool_outcome_unknown"
    payload: Json = {"payload": "somebody looked into the books"} if said == "result" else {}
    answer = await resume(client, run, {"interrupt_id": interrupt["id"], "status": said, **payload})
    assert answer.status == 202


@pytest.mark.parametrize("kill", KILLS, ids=str)
async def test_killed_at_a_point(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, faults_folder: Path, kill: Kill
) -> None:
    thread, label, armed = fresh("thread"), fresh("label"), faults_folder / kill.point
    armed.write_text(str(kill.passage))
    run = await client.start(f"key:{key} call:enter:{label}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: not armed.exists(), "the worker's death")
    if kill.unknown is not None:
        await decide(client, thread, run, kill.unknown)
    await asyncio.wait_for(task, 60)
    assert (await ended(client, run))["status"] == "succeeded"
    await check_legs(callboard, client, thread, 2 if kill.unknown else 1)
    assert len(model.of(key)) == kill.requests
    assert len(await starts(callboard, label)) == kill.started
    rows = await check_calls(client, model, key, thread, kills=1)
    assert Counter(row["status"] for row in rows) == Counter(recorded=2, lost=kill.lost)
    assert await attempts(callboard, client, run) == list(kill.outcomes)
    if kill.unknown is None:
        check_reader(reader, await client.log(thread))
        assert (await client.messages(thread))[-1]["content"] == ANSWER


async def test_killed_again_while_it_replays(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, faults_folder: Path
) -> None:
    thread, label = fresh("thread"), fresh("label")
    second, first = faults_folder / "during_replay", faults_folder / "after_tool_record"
    second.touch()
    first.touch()
    run = await client.start(f"key:{key} call:enter:{label}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: not callboard.of("worker"), "both deaths")
    assert not first.exists()
    assert not second.exists()
    await asyncio.to_thread(callboard.ensure, worker=1)
    await asyncio.wait_for(task, 60)
    assert (await ended(client, run))["status"] == "succeeded"
    await check_legs(callboard, client, thread, 1)
    check_reader(reader, await client.log(thread))
    assert (len(model.of(key)), len(await starts(callboard, label))) == (2, 1)
    assert await attempts(callboard, client, run) == ["superseded", "superseded", "finished"]
    usage = (await client.session(thread))["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (2 * INPUT_TOKENS, 2 * OUTPUT_TOKENS)


@pytest.mark.parametrize("point", ["before_end", "after_end"])
async def test_killed_around_a_pause(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, faults_folder: Path, point: str
) -> None:
    thread, label, armed = fresh("thread"), fresh("label"), faults_folder / point
    armed.touch()
    run = await client.start(f"key:{key} call:enter:{label} call:launch:{label}", thread=thread)
    reader = await client.read(run)
    await until(lambda: not armed.exists(), "the worker's death")
    [interrupt] = interrupts(reader.frames[-1])
    assert (await resume(client, run, {"interrupt_id": interrupt["id"], "status": "approved"})).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    await check_legs(callboard, client, thread, 2)
    assert (len(model.of(key)), len(await starts(callboard, label))) == (2, 1)


@pytest.mark.parametrize(("point", "kept"), [("after_tool", False), ("after_tool_record", True)])
async def test_the_state_is_what_was_recorded(
    callboard: Callboard, client: FrontClient, key: str, faults_folder: Path, point: str, kept: bool
) -> None:
    thread, label, armed = fresh("thread"), fresh("label"), faults_folder / point
    armed.touch()
    begin = {"labels": ["first"]}
    run = await client.start(f"key:{key} call:remember:{label}", thread=thread, state=begin)
    _, task = client.follow(run)
    await until(lambda: not armed.exists(), "the worker's death")
    if not kept:
        await decide(client, thread, run, "retry")
    await asyncio.wait_for(task, 60)
    assert (await ended(client, run))["status"] == "succeeded"
    log = await client.log(thread)
    end = {"labels": ["first", label]}
    states = [(f.type, f.event.get("snapshot", f.event.get("delta"))) for f in log if f.type.startswith("STATE_")]
    changed = ("STATE_DELTA", [{"op": "add", "path": "/labels/1", "value": label}])
    opening, again = ("STATE_SNAPSHOT", begin), ("STATE_SNAPSHOT", end if kept else begin)
    # Recorded: the next attempt shows it whole. Not recorded: it never was, until the second call of the tool.
    assert states == ([opening, changed, again] if kept else [opening, *[again] * 3, changed]), states
    await check_legs(callboard, client, thread, 1 if kept else 2)
