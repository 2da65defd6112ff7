"""Idle and active readers of one front together, with all that production has behind them: log, tail, lanes, actors."""

from __future__ import annotations

import asyncio
import re
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from benchmarks import meter
from benchmarks.readers import USER, open_runs
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say, token
from callboard_runtime.load.stats import spread
from callboard_runtime.stream.lanes import LanePublisher
from listeners import Listener, all_reach, close_all, digest, listen, request
from speakers import Speaker, Speakers, all_say

PREFIX = "callboard"  # of Redis' keys, as the settings have it
STEP = 10  # batches of one model call, whose record commits them
TIMED = 10  # every so many listeners note delays
SAMPLE = 0.25  # seconds between two looks at the front's memory
PACE = 1.0  # seconds between two events of one session, where they are paced
PACED = 16  # events of each session
PATIENCE = 120.0  # seconds
_LOGS = """SELECT session_id, string_agg(lines, E'\\n' ORDER BY epoch, first_seq) AS lines
FROM event_segments WHERE session_id = ANY($1) GROUP BY session_id"""


def run(world: World, sizes: Sizes) -> Result:
    with world.stack(actors=1, http=1) as stack:
        return uvloop.run(_measure(stack, sizes))


async def _measure(stack: Stack, sizes: Sizes) -> Result:
    empty = await _warm(stack)
    say(f"readers: {sizes.crowd_idle} idle streams")
    idle = await _idle(stack, sizes.crowd_idle)
    async with Speakers(stack.database, stack.amqp, stack.redis, PREFIX, lanes=LanePublisher) as speakers:
        crowd = _Crowd(stack, speakers, idle, empty, sizes)
        rows = [await crowd.at_full_speed(sessions) for sessions in _sessions(sizes.crowd)]
        paced = await crowd.paced(sizes.crowd)
    notes = (
        f"{sizes.crowd_idle} idle streams are open all the while, each on a session at rest; the front's time includes "
        "their heartbeats. The events are said by the worker's own classes and go its way: Redis, the lane, and with "
        "the commands of steps to the actors, whose commits are the log. Nothing waits for the readers, so that lanes "
        "overflow; what a front lacks then, it takes from log and tail. Each reader checks that it is sent every "
        "committed event once and in order.",
        "Speakers, readers, actors, broker and databases share the machine with the front: its own processor time per "
        "event is the figure to look at. At full speed a delay is mostly waiting for one's turn of the machine.",
    )
    tables = (Table("At full speed", tuple(rows)), Table("At an ordinary pace", (paced,)))
    return Result("readers", tables, notes)


def _sessions(readers: int) -> list[int]:
    """So many sessions share the readers."""
    return [readers, readers // 10, 1]


async def _warm(stack: Stack) -> int:
    """The front's memory once it has served somebody."""
    await close_all(await _idle(stack, 20))
    return _memory(stack)


async def _idle(stack: Stack, count: int) -> list[Listener]:
    """Streams of sessions in which nothing happens any more."""
    runs = await open_runs(stack, count, over=True)
    paths = [f"/api/v1/agent/sessions/{run.thread_id}/events" for run in runs]
    listeners = await listen(stack.url, [request(stack.url, path, token(USER)) for path in paths])
    if missing := await all_reach(listeners, 1, PATIENCE):
        raise RuntimeError(f"{missing} of {count} idle readers got no event")
    return listeners


def _memory(stack: Stack) -> int:
    return meter.read({"http": stack.groups["http"]})["http"].memory


@dataclass(frozen=True)
class _Crowd:
    """Active readers, who come on top of idle ones."""

    stack: Stack
    speakers: Speakers
    idle: Sequence[Listener]
    empty: int  # bytes of memory of a front without readers
    sizes: Sizes

    async def at_full_speed(self, sessions: int) -> Row:
        each = self.sizes.crowd // sessions
        say(f"readers: {sessions} sessions, {each} readers each")
        before_readers = _memory(self.stack)
        talks, listeners = await self._open(sessions, each)
        lagging, lost = self._lagging(), self.speakers.lanes.dropped
        before, began, watch = meter.read(self.stack.groups), time.perf_counter(), _Watch(self.stack)
        await all_say(talks, self.sizes.crowd_rounds, self.sizes.batch, STEP)
        said = time.perf_counter() - began
        missing = await self._all_whole(talks, listeners, each)
        elapsed = max(listener.last_at for listener in listeners) - began
        used, peak = meter.cpu_since(self.stack.groups, before), await watch.stop()
        sent = sum(listener.count for listener in listeners)
        delays = spread(1000 * delay for listener in listeners for delay in listener.delays)
        await close_all(listeners)
        return {
            "sessions": sessions,
            "readers": len(listeners),
            "events": sent,
            "not exactly the log": missing,
            "idle readers lost": sum(listener.lost for listener in self.idle),
            "events/s": sent / elapsed,
            "s to say, to hear all": f"{said:.1f}, {elapsed:.1f}",
            **{f"{name} CPU us/event": 1e6 * seconds / sent for name, seconds in used.items()},
            "delay p50 ms": delays and delays.p50,
            "p99 ms": delays and delays.p99,
            "front MB empty": self.empty / 2**20,
            "MB, idle": before_readers / 2**20,
            "MB at its peak": peak / 2**20,
            "kB/active reader at the peak": (peak - before_readers) / 1024 / len(listeners),
            "batches lost": self.speakers.lanes.dropped - lost,
            "times a reader lagged": self._lagging() - lagging,
        }

    async def paced(self, sessions: int) -> Row:
        say(f"readers: {sessions} sessions at an ordinary pace")
        talks, listeners = await self._open(sessions, 1, timed=1)
        before, began = meter.read(self.stack.groups), time.perf_counter()
        await asyncio.gather(*(_pace(talk, number / sessions) for number, talk in enumerate(talks)))
        missing = await self._all_whole(talks, listeners, 1)
        elapsed = max(listener.last_at for listener in listeners) - began
        used = meter.cpu_since(self.stack.groups, before)
        sent = sum(listener.count for listener in listeners)
        found = spread(1000 * delay for listener in listeners for delay in listener.delays)
        await close_all(listeners)
        assert found is not None
        return {
            "what": f"{sessions} sessions, one event every {PACE} s each",
            "not exactly the log": missing,
            "events/s": sent / elapsed,
            "said to socket p50 ms": found.p50,
            "p95 ms": found.p95,
            "p99 ms": found.p99,
            "front CPU us/event": 1e6 * used["http"] / sent,
        }

    async def _open(self, sessions: int, each: int, timed: int = TIMED) -> tuple[list[Speaker], list[Listener]]:
        """Attempts that hold runs, and readers who have the first event of each."""
        talks = await self.speakers.begin(USER, sessions)
        paths = [f"/api/v1/agent/runs/{talk.run}/events?from=start" for talk in talks for _ in range(each)]
        asked = [request(self.stack.url, path, token(USER)) for path in paths]
        listeners = await listen(self.stack.url, asked, timed=timed)
        if missing := await all_reach(listeners, 1, PATIENCE):
            raise RuntimeError(f"{missing} of {len(listeners)} readers got no first event")
        return talks, listeners

    async def _all_whole(self, talks: Sequence[Speaker], listeners: Sequence[Listener], each: int) -> int:
        """Wait until every reader has what is in the log; returns how many have anything else."""
        logs = await self._logs(talks)
        groups = [listeners[first : first + each] for first in range(0, len(listeners), each)]
        pairs = list(zip(logs, groups, strict=True))
        await asyncio.gather(*(all_reach(group, len(log), PATIENCE) for log, group in pairs))
        digests = [(digest(log), group) for log, group in pairs]
        return sum(bool(one.wrong) or one.digest != due for due, group in digests for one in group)

    async def _logs(self, talks: Sequence[Speaker]) -> list[list[str]]:
        rows = await self.stack.query(_LOGS, [talk.session_id for talk in talks])
        lines = {row["session_id"]: row["lines"].split("\n") for row in rows}
        return [lines[talk.session_id] for talk in talks]

    def _lagging(self) -> int:
        with urllib.request.urlopen(f"{self.stack.url}/metrics", timeout=30) as response:
            found = re.search(r"^callboard_http_lagging_readers_total (\S+)", response.read().decode(), re.MULTILINE)
        return int(float(found[1])) if found else 0


async def _pace(talk: Speaker, offset: float) -> None:
    await asyncio.sleep(offset * PACE)
    await talk.begin_step()
    for _ in range(PACED):
        began = time.perf_counter()
        await talk.say(1)
        await asyncio.sleep(PACE - (time.perf_counter() - began))
    await talk.finish()


class _Watch:
    """The most memory that the front has had since this was made."""

    def __init__(self, stack: Stack) -> None:
        self._stack, self._most = stack, _memory(stack)
        self._task = asyncio.create_task(self._look())

    async def stop(self) -> int:
        self._task.cancel()
        return max(self._most, _memory(self._stack))

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(SAMPLE)
            self._most = max(self._most, _memory(self._stack))
