"""Workers are killed, frozen and told to stop while the model speaks."""

import asyncio

import pytest

from faults.support import attempts, check_calls, holder, idle
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(240)

HALF = "one two three"
MANY = 8


async def test_killed_in_mid_answer(callboard: Callboard, client: FrontClient, model: ModelServer, key: str) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: HALF in reader.text, "half an answer")
    (await holder(callboard, client, run)).kill()
    model.release(key)
    await asyncio.wait_for(task, 60)
    late = await client.read(run)
    await check_run(callboard, client, run, readers=[reader, late], text=ANSWER)
    assert await attempts(callboard, client, run) == ["superseded", "finished"]
    rows = await check_calls(client, model, key, thread, kills=1)
    assert [row["status"] for row in rows] == ["lost", "recorded"]
    assert len(model.of(key)) == 2


async def test_killed_with_many_runs_at_work(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    threads = [fresh("thread") for _ in range(MANY)]
    runs = await asyncio.gather(*(client.start(f"hold:{key}", thread=thread) for thread in threads))
    following = [client.follow(run) for run in runs]
    await until(lambda: model.held(key) == MANY, "all in mid-answer")
    victim = callboard.of("worker")[0]
    held = [(await holder(callboard, client, run)) is victim for run in runs]
    victim.kill()
    model.release(key)
    for run, (reader, task) in zip(runs, following, strict=True):
        await asyncio.wait_for(task, 60)
        await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    outcomes = [await attempts(callboard, client, run) for run in runs]
    assert outcomes == [["superseded", "finished"] if was_held else ["finished"] for was_held in held]
    assert len(model.of(key)) == MANY + sum(held)


async def test_killed_again_and_again_gives_up(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread)
    reader, task = client.follow(run)
    for number in range(1, 4):
        await until(lambda n=number: len(model.of(key)) == n, f"attempt {number}")
        (await holder(callboard, client, run)).kill()
        callboard.spawn("worker")
    await asyncio.wait_for(task, 60)
    shown = await check_run(callboard, client, run, readers=[reader], status="failed")
    assert shown["error"]["code"] == "ATTEMPTS_EXHAUSTED"
    assert reader.frames[-1].event["code"] == "ATTEMPTS_EXHAUSTED"
    rows = await check_calls(client, model, key, thread, kills=3)
    assert {row["status"] for row in rows} == {"lost"}


async def test_frozen_and_woken_too_late_commits_nothing(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: HALF in reader.text, "half an answer")
    frozen = await holder(callboard, client, run)
    frozen.pause()
    await until(lambda: model.held(key) == 2, "the second attempt in mid-answer")
    model.release(key)
    await asyncio.wait_for(task, 60)
    before = await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    log, rows = await client.log(thread), await client.calls(thread)
    frozen.resume()
    await idle(callboard, frozen)
    assert await check_run(callboard, client, run, readers=[reader], text=ANSWER) == before
    assert (await client.log(thread), await client.calls(thread)) == (log, rows)
    assert await attempts(callboard, client, run) == ["superseded", "finished"]
    # It is of use again: with the others gone, the next run is its own.
    for other in callboard.of("worker"):
        if other is not frozen:
            other.kill()
    again = await client.start(f"key:{key}", thread=thread)
    await check_run(callboard, client, again, readers=[await client.read(again)], text=ANSWER)


async def test_stopped_in_good_order_hands_its_run_over(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread, agent="default")
    reader, task = client.follow(run)
    await until(lambda: model.held(key), "the first stage in mid-answer")
    stopping = await holder(callboard, client, run)
    stopped = asyncio.create_task(asyncio.to_thread(stopping.stop))
    await until(lambda: _draining(callboard, stopping.pid), "the worker drains")
    model.release(key)
    assert await asyncio.wait_for(stopped, 60) == 0
    await asyncio.wait_for(task, 60)
    await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert await attempts(callboard, client, run) == ["released", "finished"]
    rows = await check_calls(client, model, key, thread, kills=0)
    assert [(row["stage"], row["status"]) for row in rows] == [("intent", "recorded"), ("answer", "recorded")]


async def _draining(callboard: Callboard, pid: int) -> bool:
    """Whether the worker has said that it takes no more runs."""
    return bool(await callboard.query("SELECT 1 FROM processes WHERE id LIKE $1 AND slots = 0", f"%-{pid}-%"))
