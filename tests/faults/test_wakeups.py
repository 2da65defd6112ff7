"""Wake-ups are hints: a lost, doubled or late one changes nothing."""

from collections.abc import AsyncIterator

import pytest

from callboard_runtime.domain.ids import run_uuid
from faults.support import Wakeups, attempts, check_calls, idle
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
async def wakeups(callboard: Callboard) -> AsyncIterator[Wakeups]:
    async with Wakeups(callboard.urls.amqp) as wakeups:
        yield wakeups


async def test_a_lost_wakeup_is_sent_again(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, wakeups: Wakeups
) -> None:
    callboard.ensure(worker=0)
    # The relay sends wake-ups only while somebody has slots: this row stands for a worker that lost its message.
    statement = "INSERT INTO processes (id, kind, host, slots, beat_at) VALUES ($1, 'worker', 'h', 5, now() + '1 hour')"
    await callboard.query(statement, ghost := fresh("ghost"))
    thread = fresh("thread")
    run = await client.start(f"key:{key}", thread=thread)
    await until(wakeups.waiting, "a wake-up in the queue")
    assert await wakeups.purge() >= 1
    await callboard.query("DELETE FROM processes WHERE id = $1", ghost)
    callboard.start("worker")
    reader = await client.read(run)
    await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert await attempts(callboard, client, run) == ["finished"]
    await check_calls(client, model, key, thread, kills=0)


async def test_a_doubled_wakeup_runs_once(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, wakeups: Wakeups
) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread)
    await until(lambda: model.held(key), "the model in mid-answer")
    for _ in range(10):
        await wakeups.send(client, thread, run)
    await until(_empty(wakeups), "the copies taken")
    model.release(key)
    reader = await client.read(run)
    await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert await attempts(callboard, client, run) == ["finished"]
    await check_calls(client, model, key, thread, kills=0)


async def test_a_late_wakeup_finds_the_run_ended(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, wakeups: Wakeups
) -> None:
    thread = fresh("thread")
    run = await client.start(f"key:{key}", thread=thread)
    reader = await client.read(run)
    before = await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    for _ in range(5):
        await wakeups.send(client, thread, run)
    await until(_empty(wakeups), "the late ones taken")
    for worker in callboard.of("worker"):
        await idle(callboard, worker)
    assert await check_run(callboard, client, run, readers=[reader], text=ANSWER) == before
    assert await attempts(callboard, client, run) == ["finished"]
    await until(lambda: _nothing_to_send(callboard, client, run), "an empty outbox")


async def _nothing_to_send(callboard: Callboard, client: FrontClient, run: str) -> bool:
    return not await callboard.query("SELECT 1 FROM outbox WHERE run_id = $1", run_uuid(client.user, run))


def _empty(wakeups: Wakeups):
    async def empty() -> bool:
        return await wakeups.waiting() == 0

    return empty
