"""Many readers who are cut off again and again while fronts, a worker and Redis go away: each sees the log, once."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

import aiohttp
import pytest
import redis.asyncio

from faults.support import holder
from front_client import TERMINAL, Frame, FrontClient, NothingFollows, Withdrawn, fresh
from model_server import ANSWER, ModelServer
from promises import check_run, of_run, without_leading_closings
from stack import Callboard
from unit.agui_verifier import verify
from waiting import until

pytestmark = pytest.mark.timeout(240)

RUNS, READERS = 8, 25  # readers of each run
LONGEST = 6  # events until a reader is cut off at the latest


@dataclass
class Restless:
    """Reads a run over connections that end after a few events, each at any of the fronts."""

    client: FrontClient
    run: str
    chance: random.Random
    frames: list[Frame] = field(default_factory=list)
    cuts: int = 0

    async def read(self) -> None:
        while not (self.frames and self.frames[-1].type in TERMINAL):
            try:
                await self._connection(self.chance.randint(1, LONGEST))
                self.cuts += 1
            except NothingFollows:
                return
            except Withdrawn:
                self.frames.clear()
            except (aiohttp.ClientError, ConnectionError):
                await asyncio.sleep(0.05)  # as `retry:` makes a browser wait

    async def _connection(self, count: int) -> None:
        last = next((frame.id for frame in reversed(self.frames) if frame.id), None)
        stream = self.client.events(self.run, last, base=self.chance.choice(self.client.bases))
        async with aclosing(stream) as frames:
            async for frame in frames:
                self.frames.append(frame)
                count -= 1
                if count == 0 or frame.type in TERMINAL:
                    return

    @property
    def logged(self) -> list[Frame]:
        return [frame for frame in self.frames if frame.id]


def check(reader: Restless, log: Sequence[Frame]) -> None:
    """Each committed event once and in order; besides, only what a dead attempt had shown and nobody committed."""
    ids = [frame.id for frame in reader.logged]
    assert ids == sorted(set(ids)), ids  # type: ignore[type-var]
    committed = {frame.id for frame in log}
    lost = [frame for frame in reader.logged if frame.id not in committed]
    seen = [frame for frame in reader.logged if frame.id in committed]
    if lost:
        newest = max(frame.id[0] for frame in log if frame.id)
        assert all(frame.id and frame.id[0] < newest for frame in lost), lost
        assert without_leading_closings(seen) == without_leading_closings(log)
    else:
        assert seen == list(log)
        verify(frame.event for frame in reader.frames)
    assert reader.frames[-1].event == log[-1].event


async def test_two_hundred_restless_readers(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown for a failed test only
    chance = random.Random(seed)
    first, second = f"{key}-1", f"{key}-2"
    asked = [f"hold:{first if number % 2 else second} pace:30" for number in range(RUNS)]
    threads = [fresh("thread") for _ in asked]
    runs = [await client.start(text, thread=thread) for text, thread in zip(asked, threads, strict=True)]
    readers = [Restless(client, run, random.Random(chance.random())) for run in runs for _ in range(READERS)]
    reading = asyncio.gather(*(reader.read() for reader in readers))
    await until(lambda: model.held(first) + model.held(second) == RUNS, "all runs in the middle of their answer")
    await until(lambda: all(reader.frames for reader in readers), "everybody has seen something")

    async with redis.asyncio.Redis.from_url(callboard.urls.redis) as server:
        await server.flushdb()
    front = callboard.of("http")[0]
    await asyncio.to_thread(front.stop if chance.random() < 0.5 else front.kill)
    await asyncio.to_thread(callboard.start, "http")
    model.release(first)
    await until(lambda: model.held(first) == 0, "half of the answers")
    victim = await holder(callboard, client, runs[0])
    victim.kill()
    model.release(second)

    await asyncio.wait_for(reading, 120)
    for run, thread in zip(runs, threads, strict=True):
        log = of_run(await client.log(thread), run)
        for reader in readers:
            if reader.run == run:
                check(reader, log)
        await check_run(callboard, client, run, text=ANSWER)
    assert sum(reader.cuts for reader in readers) > len(readers), "they were cut off again and again"
