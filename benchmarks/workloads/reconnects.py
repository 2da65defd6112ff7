"""A storm: every reader of a front loses its connection at the same moment and comes back with its cursor."""

from __future__ import annotations

import time

import uvloop

from benchmarks import meter
from benchmarks.readers import all_reach, connect, open_runs, request
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say
from callboard_runtime.load.stats import spread

LOGGED = 40  # events of each run
CURSOR = 20  # the last one that its reader had


def run(world: World, sizes: Sizes) -> Result:
    say(f"reconnects: {sizes.storm} readers")
    with world.stack(http=1) as stack:
        row = uvloop.run(_measure(stack, sizes.storm))
    notes = (f"Each comes back with `Last-Event-ID` and is to get the {LOGGED - CURSOR} events that it lacks.",)
    return Result("reconnects", (Table("All readers of one front reconnect at once", (row,)),), notes)


async def _measure(stack: Stack, count: int) -> Row:
    runs = await open_runs(stack, count, LOGGED)
    first, _ = await connect(stack, [request(stack, run) for run in runs])
    if short := await all_reach(first, LOGGED):
        raise RuntimeError(f"{short} of {count} readers did not get what was logged")
    for reader in first:
        reader.close()
    groups = {name: stack.groups[name] for name in ("http", "PostgreSQL")}
    before, began = meter.read(groups), time.perf_counter()
    back, refused = await connect(stack, [request(stack, run, CURSOR) for run in runs], at_once=count)
    missing = await all_reach(back, LOGGED - CURSOR)
    used = meter.cpu_since(groups, before)
    found = spread(reader.done_at - began for reader in back if reader.count >= LOGGED - CURSOR)
    exact = sum(reader.count == LOGGED - CURSOR for reader in back)
    for reader in back:
        reader.close()
    assert found is not None
    return {
        "readers": count,
        "all served after s": found.most,
        "p50 s": found.p50,
        "p99 s": found.p99,
        "readers/s": (count - missing) / found.most,
        "front CPU ms each": 1000 * used["http"] / count,
        "PostgreSQL CPU ms each": 1000 * used["PostgreSQL"] / count,
        "refused at first": refused,
        "with exactly what they lacked": exact,
    }
