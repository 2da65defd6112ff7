"""How many events one front sends, to as many sessions as readers and to all readers of one session; and how soon."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import uvloop

from benchmarks import meter
from benchmarks.readers import OpenRun, line, open_runs, stream_of
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say
from callboard_runtime.domain.event_batch import EventBatch, EventId, batch
from callboard_runtime.load.stats import spread
from callboard_runtime.stream.lanes import LanePublisher
from listeners import Listener, all_reach, close_all, listen

PUBLISHERS = 32
PACE = 0.25  # seconds between two events of one session, where they are paced
PACED = 16  # events of each session


def run(world: World, sizes: Sizes) -> Result:
    with world.stack(http=1) as stack:
        say(f"fan_out: {sizes.readers} readers")
        many = uvloop.run(_measure(stack, f"{sizes.readers} sessions, one reader each", sizes.readers, 1, sizes))
        one = uvloop.run(_measure(stack, f"one session, {sizes.readers} readers", 1, sizes.readers, sizes))
        paced = uvloop.run(_pace(stack, sizes.readers))
    notes = (
        f"Batches of {sizes.batch} events over RabbitMQ's lanes as fast as they can be published, one front process. "
        "With a session per reader the broker carries every batch once per reader; publisher, broker and readers share "
        "the machine with the front, whose own processor time per event is the figure to look at.",
        "Latency is from the publish to the reader's socket, over broker and front, at a pace that leaves the machine "
        "time. It begins where the worker's window for joining deltas ends; `hops` has the whole way of every token.",
    )
    tables = (Table("Events from one front to its readers", (many, one)), Table("How soon they arrive", (paced,)))
    return Result("fan_out", tables, notes)


async def _measure(stack: Stack, name: str, sessions: int, each: int, sizes: Sizes) -> Row:
    runs, readers = await _open(stack, sessions, each)
    lanes = await LanePublisher.connect(stack.amqp, "bench")
    before, began = meter.read(stack.groups), time.perf_counter()
    await _publish(lanes, runs, sizes)
    expected = 1 + sizes.rounds * sizes.batch
    missing = await all_reach(readers, expected)
    elapsed = max(reader.last_at for reader in readers) - began
    used = meter.cpu_since(stack.groups, before)
    await lanes.close()
    sent = sum(reader.count - 1 for reader in readers)
    await close_all(readers)
    front = 1e6 * used["http"] / sent
    return {
        "what": name,
        "events/s": sent / elapsed,
        "front CPU us/event": front,
        "events/s of a front with a core of its own": 1e6 / front,
        "RabbitMQ CPU us/event": 1e6 * used["RabbitMQ"] / sent,
        "events": sent,
        "readers short of events": missing,
        "batches sent again": lanes.dropped,
    }


async def _publish(lanes: LanePublisher, runs: Sequence[OpenRun], sizes: Sizes) -> None:
    """Every run's batches in order; runs side by side."""
    gate = asyncio.Semaphore(PUBLISHERS)

    async def rounds(run: OpenRun) -> None:
        for number in range(sizes.rounds):
            first = run.logged + 1 + number * sizes.batch
            sent = batch(1, first, [line(first + offset) for offset in range(sizes.batch)])
            async with gate:
                await _deliver(lanes, run, sent, EventId(1, first - 1))

    await asyncio.gather(*(rounds(run) for run in runs))


async def _deliver(lanes: LanePublisher, run: OpenRun, sent: EventBatch, previous: EventId) -> None:
    """Publish until nothing was dropped meanwhile: these events come to no log, where readers would find them."""
    dropped = -1
    while dropped != lanes.dropped:
        dropped = lanes.dropped
        await lanes.publish(run.session_id, run.run_id, 1, sent, previous)


async def _pace(stack: Stack, sessions: int) -> Row:
    """Events one by one, at random moments, each timed until its reader has it."""
    runs, readers = await _open(stack, sessions, 1)
    lanes = await LanePublisher.connect(stack.amqp, "bench")
    taken: list[float] = []

    async def session(run: OpenRun, reader: Listener) -> None:
        await asyncio.sleep(random.random() * PACE)
        for seq in range(run.logged + 1, run.logged + 1 + PACED):
            arrived, began = reader.reach(seq), time.perf_counter()
            await lanes.publish(run.session_id, run.run_id, 1, batch(1, seq, [line(seq)]), EventId(1, seq - 1))
            await arrived
            taken.append(reader.last_at - began)
            await asyncio.sleep(PACE - taken[-1])

    before, began = meter.read(stack.groups), time.perf_counter()
    async with asyncio.timeout(120):
        await asyncio.gather(*(session(run, reader) for run, reader in zip(runs, readers, strict=True)))
    elapsed, used = time.perf_counter() - began, meter.cpu_since(stack.groups, before)
    await lanes.close()
    await close_all(readers)
    found = spread(1000 * each for each in taken)
    assert found is not None
    return {
        "what": f"{sessions} sessions, one event every {PACE} s each",
        "events/s": len(taken) / elapsed,
        "publish to socket p50 ms": found.p50,
        "p95 ms": found.p95,
        "p99 ms": found.p99,
        "front CPU us/event": 1e6 * used["http"] / len(taken),
    }


async def _open(stack: Stack, sessions: int, each: int) -> tuple[list[OpenRun], list[Listener]]:
    """Runs in sessions of their own, with so many readers each, all of whom have the first event."""
    runs = await open_runs(stack, sessions)
    readers = await listen(stack.url, [stream_of(stack, run) for run in runs for _ in range(each)])
    if missing := await all_reach(readers, 1):
        raise RuntimeError(f"{missing} of {len(readers)} readers got no first event")
    return runs, readers
