"""How many events one front sends: to as many sessions as readers, and to all readers of one session."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import uvloop

from benchmarks import meter
from benchmarks.readers import OpenRun, all_reach, connect, line, open_runs, request
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say
from callboard_runtime.domain.event_batch import EventId, batch
from callboard_runtime.stream.lanes import LanePublisher

PUBLISHERS = 32


def run(world: World, sizes: Sizes) -> Result:
    with world.stack(http=1) as stack:
        say(f"fan_out: {sizes.readers} readers")
        many = uvloop.run(_measure(stack, f"{sizes.readers} sessions, one reader each", sizes.readers, 1, sizes))
        one = uvloop.run(_measure(stack, f"one session, {sizes.readers} readers", 1, sizes.readers, sizes))
    notes = (
        f"Batches of {sizes.batch} events over RabbitMQ's lanes as fast as they can be published, one front process. "
        "With a session per reader the broker carries every batch once per reader; publisher, broker and readers share "
        "the machine with the front, whose own processor time per event is the figure to look at.",
    )
    return Result("fan_out", (Table("Events from one front to its readers", (many, one)),), notes)


async def _measure(stack: Stack, name: str, sessions: int, each: int, sizes: Sizes) -> Row:
    runs = await open_runs(stack, sessions)
    readers, _ = await connect(stack, [request(stack, run) for run in runs for _ in range(each)])
    missing = await all_reach(readers, 1)
    if missing:
        raise RuntimeError(f"{missing} of {len(readers)} readers got no first event: {readers[0].status!r}")
    lanes = await LanePublisher.connect(stack.amqp, "bench")
    before, began = meter.read(stack.groups), time.perf_counter()
    await _publish(lanes, runs, sizes)
    expected = 1 + sizes.rounds * sizes.batch
    missing = await all_reach(readers, expected)
    elapsed = max(reader.done_at for reader in readers) - began
    used = meter.cpu_since(stack.groups, before)
    await lanes.close()
    sent = sum(reader.count - 1 for reader in readers)
    for reader in readers:
        reader.close()
    return {
        "what": name,
        "events/s": sent / elapsed,
        "front CPU us/event": 1e6 * used["http"] / sent,
        "RabbitMQ CPU us/event": 1e6 * used["RabbitMQ"] / sent,
        "events": sent,
        "readers short of events": missing,
        "batches dropped": lanes.dropped,
    }


async def _publish(lanes: LanePublisher, runs: Sequence[OpenRun], sizes: Sizes) -> None:
    """Every run's batches in order; runs side by side."""
    gate = asyncio.Semaphore(PUBLISHERS)

    async def rounds(run: OpenRun) -> None:
        for number in range(sizes.rounds):
            first = run.logged + 1 + number * sizes.batch
            sent = batch(1, first, [line(first + offset) for offset in range(sizes.batch)])
            async with gate:
                await lanes.publish(run.session_id, run.run_id, 1, sent, EventId(1, first - 1))

    await asyncio.gather(*(rounds(run) for run in runs))
