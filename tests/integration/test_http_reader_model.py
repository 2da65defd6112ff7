"""However the events are spread over log, tail and lanes, and whatever is lost live: each reader sees the log."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from callboard_http.event_log import EventLog
from callboard_http.hub import EventHub
from callboard_http.reader import LegReader, Sources
from callboard_http.tail_reads import TailReads
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventId, to_line
from callboard_runtime.settings import Settings

from .http_harness import PATIENCE, Backstage, Leg, delta, started

_names = itertools.count()


@dataclass(frozen=True)
class Emit:
    """A batch of `size` events; lost live, or not yet in the tail, as said."""

    size: int
    live: bool
    tail: bool


@dataclass(frozen=True)
class Commit:
    """What was sent so far is committed, but for the last `short` events."""

    short: int


@dataclass(frozen=True)
class TakeOver:
    """The attempt dies; the next one adopts all that was sent."""

    live: bool


@dataclass(frozen=True)
class Join:
    """A reader comes, at the start or after the `back`-th last committed event.

    It may be told that the leg is fresh, though that need not be true: it costs time at most.
    """

    back: int | None
    fresh: bool = False


Step = Emit | Commit | TakeOver | Join

steps = st.lists(
    st.one_of(
        st.builds(Emit, st.integers(1, 4), st.booleans(), st.booleans()),
        st.builds(Commit, st.integers(0, 3)),
        st.builds(TakeOver, st.booleans()),
        st.builds(Join, st.none() | st.integers(0, 5), st.booleans()),
    ),
    max_size=14,
)


@pytest.fixture
async def sources(settings: Settings, stage: Backstage) -> AsyncIterator[Sources]:
    hub = EventHub(settings.required_amqp_url(), "model")
    await hub.start()
    log = EventLog(stage.engine)
    yield Sources(log, TailReads(stage.tail), hub)
    await hub.close()


class Play:
    """One example: the leg, the whole log it comes to, and its readers."""

    def __init__(self, stage: Backstage, sources: Sources, leg: Leg, buffer: int) -> None:
        self.stage, self.sources, self.leg, self.buffer = stage, sources, leg, buffer
        self.epoch = 0
        self.whole: list[tuple[EventId, str]] = []
        self.readers: list[tuple[EventId, asyncio.Task[list[tuple[EventId, str]]]]] = []
        self._texts = itertools.count()

    async def take(self, step: Step) -> None:
        match step:
            case Emit(size, live, tail):
                await self._emit(size, live, tail)
            case Commit(short):
                upto = max(self._committed(), len(self.leg.sent) - short)
                if upto > self._committed():
                    await self.stage.commit(self.leg, upto)
            case TakeOver(live):
                await self.begin(live, {"type": "MESSAGES_SNAPSHOT", "messages": []})
            case Join(back, fresh):
                self.join(back, fresh)
        await asyncio.sleep(0)

    async def begin(self, live: bool, *opening: AguiEvent) -> None:
        if self.epoch and len(self.leg.sent) > self._committed():
            await self.stage.commit(self.leg)
        self.epoch += 1
        await self.stage.begin(self.leg, self.epoch, *opening, publish=live)
        self._note(opening, 1)

    async def finish(self, live: bool) -> None:
        end = {"type": "RUN_FINISHED", "threadId": "t", "runId": self.leg.run}
        first = len(self.leg.sent) + 1
        await self.stage.commit(self.leg) if first - 1 > self._committed() else None
        await self.stage.close(self.leg, end, live=live)
        self._note((end,), first)

    def join(self, back: int | None, fresh: bool = False) -> None:
        committed = [event_id for event_id, _ in self.whole if event_id <= self.leg.log]
        after = ORIGIN if back is None or back >= len(committed) else committed[-1 - back]
        fresh = fresh and after == ORIGIN
        reader = LegReader(self.sources, self.leg.key, after=after, heartbeat=0.15, buffer=self.buffer, fresh=fresh)
        self.readers.append((after, asyncio.create_task(_read(reader))))

    async def _emit(self, size: int, live: bool, tail: bool) -> None:
        given = [delta(str(next(self._texts))) for _ in range(size)]
        first = len(self.leg.sent) + 1
        self._note(given, first)
        await self.stage.emit(self.leg, *given, tail=tail, live=live)

    def _note(self, given: tuple[AguiEvent, ...] | list[AguiEvent], first: int) -> None:
        self.whole += [(EventId(self.epoch, seq), to_line(event)) for seq, event in enumerate(given, first)]

    def _committed(self) -> int:
        return self.leg.log.seq if self.leg.log.epoch == self.leg.epoch else 0


async def _read(reader: LegReader) -> list[tuple[EventId, str]]:
    found: list[tuple[EventId, str]] = []
    async with contextlib.aclosing(reader.chunks()) as chunks:
        async for chunk in chunks:
            await asyncio.sleep(0)  # a client takes its time
            if chunk is not None:
                lines = chunk.body.decode().split("\n")
                found += [(EventId(chunk.epoch, seq), line) for seq, line in enumerate(lines, chunk.first)]
    return found


@hypothesis_settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(steps=steps, buffer=st.sampled_from([100, 1_000_000]), begun=st.booleans(), last_live=st.booleans())
async def test_every_reader_sees_the_log(
    stage: Backstage, sources: Sources, steps: list[Step], buffer: int, begun: bool, last_live: bool
):
    """`buffer` of 100 bytes: nearly every live chunk is dropped, and found in the log instead."""
    name = next(_names)
    play = Play(stage, sources, await stage.add_run(thread=f"t{name}", run=f"r{name}"), buffer)
    if not begun:
        play.join(None)
        play.join(None, fresh=True)
    await play.begin(True, started(f"r{name}"))
    play.join(None)
    for step in steps:
        await play.take(step)
    await play.finish(last_live)
    play.join(None)
    async with asyncio.timeout(PATIENCE):
        for after, reading in play.readers:
            assert await reading == [event for event in play.whole if event[0] > after]
