"""Fronts are killed and stopped under their readers, who come back at another one."""

import asyncio

import pytest

from faults.test_tools import copies, routed
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(180)

PENDING = 16  # requests that a front has not answered when it is killed


@pytest.mark.parametrize("orderly", [False, True], ids=["killed", "stopped"])
async def test_readers_go_on_at_another_front(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, orderly: bool
) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread)
    following = [client.follow(run, fronts) for fronts in (callboard.fronts, callboard.fronts[::-1])]
    await until(lambda: all("three" in reader.text for reader, _ in following), "half an answer everywhere")
    gone = callboard.of("http")[1]
    await asyncio.to_thread(gone.stop if orderly else gone.kill)
    model.release(key)
    for reader, task in following:
        await asyncio.wait_for(task, 60)
        assert reader.text == ANSWER
        # An EventSource that comes back gets the rest, never the beginning again.
        assert [frame.type for frame in reader.frames].count("RUN_STARTED") == 1
    await check_run(callboard, client, run, readers=[reader for reader, _ in following], text=ANSWER)
    assert sum(reader.connections > 1 for reader, _ in following) == 1


async def test_killed_in_the_middle_of_many_requests(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    runs = await asyncio.gather(*(client.start(f"key:{key} {n}") for n in range(4)))
    await until(lambda: len(model.of(key)) >= 1, "the first run at work")
    threads, turns, fronts = [fresh("thread") for _ in range(PENDING)], client.turns, callboard.of("http")
    gone = fronts[turns % len(fronts)]  # where the client turns to next
    async with copies(callboard, client, *threads) as commands:
        for actors in callboard.of("actors"):
            actors.pause()  # who would answer the front
        starts = [asyncio.create_task(client.start(f"key:{key} {thread}", thread=thread)) for thread in threads]
        await routed(commands, "AcceptRun", PENDING)
    gone.kill()
    assert not any(start.done() for start in starts), "answered before the kill"
    for actors in callboard.of("actors"):
        actors.resume()
    runs += await asyncio.gather(*starts)
    assert client.turns - turns >= PENDING, "each was sent again"
    for run in runs:
        reader, task = client.follow(run)
        await asyncio.wait_for(task, 60)
        await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert len(model.of(key)) == len(runs)
