"""Every process is replaced, one after the other, under load: nothing is lost, no finished step is repeated."""

import asyncio

import pytest

from faults.support import attempts
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run
from stack import KINDS, Callboard

RUNS = 12

pytestmark = pytest.mark.timeout(240)


async def test_a_rolling_restart_loses_and_repeats_nothing(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    threads = [fresh("thread") for _ in range(RUNS)]
    # Two model calls each, with a tool between them; the longer ones outlast several restarts.
    texts = [f"key:{key} pace:{100 + 60 * n} call:read:{fresh('label')}" for n in range(RUNS)]
    runs = [await client.start(text, thread=thread) for text, thread in zip(texts, threads, strict=True)]
    following = [client.follow(run) for run in runs]
    for kind in KINDS:
        for node in callboard.of(kind):
            await asyncio.to_thread(callboard.start, kind)
            assert await asyncio.to_thread(node.stop) == 0, f"{kind} ended badly"
    await asyncio.wait_for(asyncio.gather(*(task for _, task in following)), 90)
    for run, thread, (reader, _) in zip(runs, threads, following, strict=True):
        await check_run(callboard, client, run, readers=[reader], text=ANSWER)
        *given_back, last = await attempts(callboard, client, run)
        assert last == "finished"
        assert set(given_back) <= {"released"}, "each gave its run back before it went"
        rows = await client.calls(thread)
        assert [row["status"] for row in rows] == ["recorded"] * 2, rows
    assert len(model.of(key)) == 2 * RUNS, "no call was made twice"
