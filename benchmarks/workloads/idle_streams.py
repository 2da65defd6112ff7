"""What an open stream costs while nothing happens: the front's memory and processor time."""

from __future__ import annotations

import asyncio

import uvloop

from benchmarks import meter
from benchmarks.readers import open_runs, stream_of
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say
from listeners import all_reach, close_all, listen

WATCHED = 20.0  # seconds; a heartbeat falls into them
EXTRAPOLATED = 10_000


def run(world: World, sizes: Sizes) -> Result:
    say(f"idle_streams: {sizes.idle} streams")
    with world.stack(http=1) as stack:
        row = uvloop.run(_measure(stack, sizes.idle))
    notes = (f"Each stream reads a session of its own. The last column is the first, extrapolated to {EXTRAPOLATED}.",)
    return Result("idle_streams", (Table("Idle streams on one front", (row,)),), notes)


async def _measure(stack: Stack, count: int) -> Row:
    front = {"http": stack.groups["http"]}
    warm = await open_runs(stack, 20)
    readers = await listen(stack.url, [stream_of(stack, run) for run in warm])
    await all_reach(readers, 1)
    await close_all(readers)
    empty = meter.read(front)["http"]
    runs = await open_runs(stack, count)
    readers = await listen(stack.url, [stream_of(stack, run) for run in runs])
    missing = await all_reach(readers, 1)
    opened = meter.read(front)["http"]
    await asyncio.sleep(WATCHED)
    idle = meter.read(front)["http"]
    alive = sum(not reader.lost for reader in readers)
    await close_all(readers)
    per_stream = (idle.memory - empty.memory) / count
    return {
        "streams": count,
        "kB/stream": per_stream / 1024,
        "front MB empty": empty.memory / 2**20,
        "front MB": idle.memory / 2**20,
        "CPU ms to open one": 1000 * (opened.cpu - empty.cpu) / count,
        "CPU % while idle": 100 * (idle.cpu - opened.cpu) / WATCHED,
        "refused at first": sum(reader.refusals for reader in readers),
        "still open": alive,
        "without a first event": missing,
        f"MB for {EXTRAPOLATED}": (empty.memory + per_stream * EXTRAPOLATED) / 2**20,
    }
