"""Cancels and deletions while processes die: what was said to have happened has happened, and is never undone."""

import asyncio

import pytest

from callboard_runtime.domain.ids import session_uuid
from faults.conftest import PROCESSES
from faults.support import attempts, check_calls, holder, idle
from front_client import RUNS, SESSIONS, FrontClient, Reader, fresh
from model_server import ANSWER, ModelServer
from promises import check_run, ended
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(180)

HALF = "one two three"
MANY = 12


async def in_mid_answer(
    callboard: Callboard, client: FrontClient, key: str, thread: str
) -> tuple[str, Reader, "asyncio.Task[Reader]"]:
    run = await client.start(f"hold:{key}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: HALF in reader.text, "half an answer")
    return run, reader, task


async def test_cancel_stops_the_model_at_once(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    run, reader, task = await in_mid_answer(callboard, client, key, thread := fresh("thread"))
    assert (await client.cancel(run)).status == 202
    await asyncio.wait_for(task, 60)
    before = await check_run(callboard, client, run, readers=[reader], status="cancelled", text=HALF)
    again = await client.cancel(run)
    assert (again.status, again.body["status"]) == (202, "cancelled")
    assert await client.run(run) == before
    [row] = await check_calls(client, model, key, thread, kills=0)
    assert row["status"] == "cancelled"
    assert await attempts(callboard, client, run) == ["finished"], "the worker ended it, in time"


@pytest.mark.parametrize("blow", ["killed", "frozen"])
async def test_cancel_needs_no_worker(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, blow: str
) -> None:
    run, reader, task = await in_mid_answer(callboard, client, key, thread := fresh("thread"))
    worker = await holder(callboard, client, run)
    (worker.kill if blow == "killed" else worker.pause)()
    assert (await client.cancel(run)).status == 202
    await asyncio.wait_for(task, 60)
    before = await check_run(callboard, client, run, readers=[reader], status="cancelled", text=HALF)
    log = await client.log(thread)
    model.release(key)
    worker.resume()
    if blow == "frozen":
        await idle(callboard, worker)
    assert await check_run(callboard, client, run, readers=[reader], status="cancelled", text=HALF) == before
    assert await client.log(thread) == log
    assert len(model.of(key)) == 1, "no step was granted after the cancel"
    [row] = await client.calls(thread)
    assert row["estimated"]


async def test_a_cancel_survives_the_actors(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    run, reader, task = await in_mid_answer(callboard, client, key, fresh("thread"))
    assert (await client.cancel(run)).status == 202
    for actors in callboard.of("actors"):
        actors.kill()
    model.release(key)
    await asyncio.to_thread(callboard.ensure, **PROCESSES)
    await asyncio.wait_for(task, 90)
    shown = await ended(client, run)
    assert shown["status"] == "cancelled"
    await check_run(callboard, client, run, readers=[reader], status="cancelled")


async def test_cancel_and_end_at_the_same_moment(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    threads = [fresh("thread") for _ in range(MANY)]
    runs = await asyncio.gather(*(client.start(f"hold:{key}", thread=thread) for thread in threads))
    following = [client.follow(run) for run in runs]
    await until(lambda: model.held(key) == MANY, "all in mid-answer")
    model.release(key)
    cancels = await asyncio.gather(*(client.cancel(run) for run in runs))
    assert {answer.status for answer in cancels} == {202}
    for run, (reader, task), cancel in zip(runs, following, cancels, strict=True):
        await asyncio.wait_for(task, 60)
        shown = await ended(client, run)
        assert shown["status"] in ("succeeded", "cancelled")
        if cancel.body["status"] == "succeeded":
            assert shown["status"] == "succeeded", "a terminal is never changed"
        await check_run(callboard, client, run, readers=[reader], status=shown["status"])
        outcome = reader.frames[-1].event["outcome"]["type"]
        assert outcome == {"succeeded": "success", "cancelled": "cancelled"}[shown["status"]]


async def test_a_deleted_session_stays_deleted(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread = fresh("thread")
    first = await client.start(f"key:{key}", thread=thread)
    await client.read(first)
    run, reader, task = await in_mid_answer(callboard, client, key, thread)
    queued = await client.start("never", thread=thread)
    worker = await holder(callboard, client, run)
    worker.pause()
    assert (await client.request("DELETE", f"{SESSIONS}/{thread}")).status == 204
    await asyncio.wait_for(task, 60)
    assert reader.frames[-1].event["code"] == "SESSION_DELETED"
    model.release(key)
    worker.resume()
    await idle(callboard, worker)
    session_id = session_uuid(client.user, thread)
    for table in ("messages", "event_segments"):
        assert not await callboard.query(f"SELECT 1 FROM {table} WHERE session_id = $1", session_id), table
    for path in (f"{SESSIONS}/{thread}", f"{SESSIONS}/{thread}/messages"):
        assert (await client.request("GET", path)).status == 410, path
    for path in (f"{RUNS}/{run}", f"{RUNS}/{queued}/events"):
        assert (await client.request("GET", path)).status in (404, 410), path
    answer = await client.post(
        {"threadId": thread, "runId": fresh("run"), "messages": [{"id": "m", "role": "user", "content": ANSWER}]}
    )
    assert answer.status == 410, answer
