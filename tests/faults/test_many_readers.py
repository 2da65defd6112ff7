"""A thousand readers of one front, and sessions that speak faster than their lanes carry: each reader has the log."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from callboard_runtime.stream.lanes import LanePublisher
from front_client import RUNS, FrontClient, token
from listeners import Listener, all_reach, close_all, digest, listen, request
from speakers import Speaker, Speakers, all_say
from stack import Callboard

pytestmark = pytest.mark.timeout(120)

BATCHES, SIZE, STEP = 20, 8, 7  # batches of a run, events of a batch, batches between two commits
WORDS = BATCHES * SIZE
PATIENCE = 60.0  # seconds
SEGMENTS = "SELECT lines FROM event_segments WHERE session_id = $1 ORDER BY epoch, first_seq"


class LossyLanes(LanePublisher):
    """Drops every third batch, as a lane that overflows does."""

    def __init__(self, amqp_url: str, name: str) -> None:
        super().__init__(amqp_url, name)
        self._numbers = itertools.count()

    async def publish(self, *arguments: Any, **named: Any) -> None:
        if next(self._numbers) % 3 == 1:
            self.dropped += 1
        else:
            await super().publish(*arguments, **named)


@pytest.fixture
async def speakers(callboard: Callboard) -> AsyncIterator[Speakers]:
    await asyncio.to_thread(callboard.ensure, worker=0)  # who would take the speakers' runs
    urls, prefix = callboard.urls, callboard.environment["CALLBOARD_REDIS_PREFIX"]
    async with Speakers(urls.database, urls.amqp, urls.redis, prefix, lanes=LossyLanes) as speakers:
        yield speakers


@asynccontextmanager
async def audience(
    callboard: Callboard, client: FrontClient, talks: Sequence[Speaker], each: int
) -> AsyncGenerator[list[Listener]]:
    """So many readers for each run, all at the same front, who have its first event."""
    [url, *_] = callboard.fronts
    paths = [f"{RUNS}/{talk.run}/events?from=start" for talk in talks for _ in range(each)]
    listeners = await listen(url, [request(url, path, token(client.user)) for path in paths])
    assert await all_reach(listeners, 1, PATIENCE) == 0
    yield listeners
    await close_all(listeners)


async def check(callboard: Callboard, talks: Sequence[Speaker], listeners: Sequence[Listener], each: int) -> None:
    """Every listener gets what is in the log of its run, and nothing else."""
    for number, talk in enumerate(talks):
        log = [line for row in await callboard.query(SEGMENTS, talk.session_id) for line in row["lines"].split("\n")]
        assert sum('"name":"word"' in line for line in log) == WORDS
        group = listeners[number * each : (number + 1) * each]
        await all_reach(group, len(log), PATIENCE)
        assert [(one.count, one.wrong, one.digest) for one in group] == [(len(log), [], digest(log))] * each


@pytest.mark.parametrize(("sessions", "each"), [(100, 1), (20, 50)])
async def test_each_reader_has_the_log(
    callboard: Callboard, client: FrontClient, speakers: Speakers, sessions: int, each: int
) -> None:
    talks = await speakers.begin(client.user, sessions)
    async with audience(callboard, client, talks, each) as listeners:
        await asyncio.wait_for(all_say(talks, BATCHES, SIZE, STEP), PATIENCE)
        await check(callboard, talks, listeners, each)
    assert speakers.lanes.dropped >= sessions, "nothing was missing anywhere"
