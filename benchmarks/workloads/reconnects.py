"""A storm: every reader of a front loses its connection at the same moment and comes back with its cursor."""

from __future__ import annotations

import time

import uvloop

from benchmarks import meter
from benchmarks.readers import open_runs, stream_of
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say
from callboard_runtime.load.stats import spread
from listeners import all_reach, close_all, listen

LOGGED = 40  # events of each run
CURSOR = 20  # the last one that its reader had
LACKED = LOGGED - CURSOR


def run(world: World, sizes: Sizes) -> Result:
    say(f"reconnects: {sizes.storm} readers")
    with world.stack(http=1) as stack:
        row = uvloop.run(_measure(stack, sizes.storm))
    notes = (
        f"Each comes back with `Last-Event-ID` and is to get the {LACKED} events that it lacks. A reader is "
        "served when it has the last of them.",
    )
    return Result("reconnects", (Table("All readers of one front reconnect at once", (row,)),), notes)


async def _measure(stack: Stack, count: int) -> Row:
    runs = await open_runs(stack, count, LOGGED)
    first = await listen(stack.url, [stream_of(stack, run) for run in runs])
    if short := await all_reach(first, LOGGED):
        raise RuntimeError(f"{short} of {count} readers did not get what was logged")
    requests = [stream_of(stack, run, CURSOR) for run in runs]
    await close_all(first)
    groups = {name: stack.groups[name] for name in ("http", "PostgreSQL")}
    before, began = meter.read(groups), time.perf_counter()
    back = await listen(stack.url, requests, after=CURSOR, at_once=count)
    missing = await all_reach(back, LACKED)
    used = meter.cpu_since(groups, before)
    # Nothing is said meanwhile: the newest event that a reader has is the last one that it lacked.
    found = spread(reader.last_at - began for reader in back if reader.count >= LACKED)
    exact = sum(reader.count == LACKED and not reader.wrong for reader in back)
    await close_all(back)
    assert found is not None
    return {
        "readers": count,
        "all served after s": found.most,
        "p50 s": found.p50,
        "p99 s": found.p99,
        "readers/s": (count - missing) / found.most,
        "front CPU ms each": 1000 * used["http"] / count,
        "PostgreSQL CPU ms each": 1000 * used["PostgreSQL"] / count,
        "refused at first": sum(reader.refusals for reader in back),
        "with exactly what they lacked": exact,
    }
