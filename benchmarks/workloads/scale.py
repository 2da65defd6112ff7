"""How throughput grows with processes, what a run costs the services, and how long a worker takes to be of use."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack
from functools import partial
from statistics import median

import asyncpg
import psutil
import uvloop

from benchmarks import counters, meter
from benchmarks.browsers import Target, Visit, crowd, run_input, session, visit
from benchmarks.results import Result, Row, Table, Value
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say, token
from callboard_runtime.load.stats import spread

PACE = 10  # ms per token
PATIENCE = 60.0  # seconds
ALONE = 4  # runs one after the other are a quarter of those in the crowd
MORE = (("two workers", "worker"), ("and two actor processes", "actors"), ("and two fronts", "http"))


def run(world: World, sizes: Sizes) -> Result:
    with world.stack(actors=1, http=1, worker=1) as stack, ExitStack() as undo:
        grown = [_throughput("one of each", stack, sizes)]
        say("scale: counts per run")
        counted = uvloop.run(_counted(world, stack, sizes))
        connected = counters.connections(world, stack)
        for name, kind in MORE:
            undo.enter_context(world.process(stack, kind))
            grown.append(_throughput(name, stack, sizes))
    with world.stack(actors=1, http=1) as stack:
        say(f"scale: {sizes.cold_starts} cold starts")
        started = [uvloop.run(_cold_start(world, stack, sizes.tokens)) for _ in range(sizes.cold_starts)]
        with world.process(stack, "worker", forks=2) as parent:
            grown.append(_throughput("one of each, the worker forked in two", stack, sizes))
            replaced = uvloop.run(_replacement(stack, parent.pid))
    notes = (
        "All processes share the machine's cores, so more of them cannot bring more than the cores have left; what "
        "should stay flat is CPU ms/run. Counts are the services' own, less what they count while nothing runs.",
    )
    cold = {name: median(each[name] for each in started) for name in started[0]}
    tables = (
        Table("Throughput and processor time by processes", tuple(grown)),
        Table("What a run makes the services do", tuple(counted)),
        Table("Connections of one process", tuple(connected)),
        Table("Seconds until a worker is of use", ({**cold, "a killed fork's successor beats": replaced},)),
    )
    return Result("scale", tables, notes)


def _targets(stack: Stack) -> list[Target]:
    headers = {"Authorization": f"Bearer {token('bench')}"}
    return [Target(f"{url}/api/v1/agent/agui/chat", headers) for url in stack.urls]


async def _crowds(stack: Stack, tokens: int, runs: int, at_once: int) -> tuple[list[Visit], float]:
    """The same number of users on every front."""
    targets, text = _targets(stack), f"{tokens} tokens at {PACE} ms"
    share = partial(crowd, text=text, tokens=tokens, runs=runs // len(targets), at_once=at_once // len(targets))
    found = await asyncio.gather(*map(share, targets))
    return [each for visits, _ in found for each in visits], max(elapsed for _, elapsed in found)


def _throughput(name: str, stack: Stack, sizes: Sizes) -> Row:
    say(f"scale: {name}, {sizes.scale_runs} runs, {sizes.scale_at_once} at once")
    return {"processes": name, **uvloop.run(_served(stack, sizes))}


async def _served(stack: Stack, sizes: Sizes) -> Row:
    await _crowds(stack, sizes.tokens, sizes.scale_at_once, sizes.scale_at_once)
    before = meter.read(stack.groups)
    visits, elapsed = await _crowds(stack, sizes.tokens, sizes.scale_runs, sizes.scale_at_once)
    await asyncio.sleep(0.5)
    cpu = {kind: 1000 * used / len(visits) for kind, used in meter.cpu_since(stack.groups, before).items()}
    good = [each for each in visits if each.error is None]
    first = spread(each.arrivals[0] for each in good)
    return {
        "runs/s": len(good) / elapsed,
        "TTFT p50 ms": 1000 * first.p50 if first else None,
        "CPU ms/run": sum(cpu.values()),
        **{f"of it {kind}": used for kind, used in cpu.items()},
        "worker MB": meter.megabytes(stack.groups)["worker"],
        "errors": len(visits) - len(good),
    }


async def _counted(world: World, stack: Stack, sizes: Sizes) -> list[Row]:
    await _crowds(stack, sizes.tokens, sizes.scale_at_once, sizes.scale_at_once)
    await asyncio.sleep(counters.SETTLE)
    began = await counters.read(world, stack)
    await asyncio.sleep(counters.SETTLE)
    idle = await counters.read(world, stack)
    resting = {name: each / (idle.at - began.at) for name, each in idle.since(began).items()}
    alone, crowded = sizes.scale_runs // ALONE // 2, sizes.scale_runs
    columns: dict[str, dict[str, float]] = {}
    before = idle
    for name, runs, at_once in (("alone", alone, 1), (f"{sizes.scale_at_once} at once", crowded, sizes.scale_at_once)):
        visits, _ = await _crowds(stack, sizes.tokens, runs, at_once)
        if failed := [each.error for each in visits if each.error]:
            raise RuntimeError(f"a run failed: {failed[0]}")
        await asyncio.sleep(counters.SETTLE)
        after = await counters.read(world, stack)
        spent = after.since(before)
        columns[f"per run, {name}"] = {
            key: max(0.0, (spent[key] - resting[key] * (after.at - before.at)) / runs) for key in spent
        }
        before = after
    columns["per second, idle"] = resting
    return [{"what": said, **{name: of[key] for name, of in columns.items()}} for key, said in counters.NAMES.items()]


async def _cold_start(world: World, stack: Stack, tokens: int) -> dict[str, float]:
    """Start a worker while a run waits for one."""
    [target] = _targets(stack)
    body = run_input(f"{tokens} tokens at 0 ms")
    known = {row["id"] for row in await stack.query("SELECT id FROM processes")}
    async with session() as http:
        waiting = asyncio.create_task(visit(http, target, body, tokens))
        await _until(stack, "SELECT 1 FROM runs WHERE client_run_id = $1", body["runId"])
        began = time.perf_counter()
        with world.process(stack, "worker", wait=False) as child:
            await _until(stack, "SELECT 1 FROM processes WHERE NOT id = ANY($1)", list(known))
            beats = time.perf_counter() - began
            seen = await waiting
            done = time.perf_counter() - began
            used = meter.read({"worker": [child.pid]})["worker"].cpu
    if seen.error:
        raise RuntimeError(f"the waiting run failed: {seen.error}")
    return {"from its command to its first heartbeat": beats, "to the end of a run that waits": done, "CPU s": used}


async def _replacement(stack: Stack, parent: int) -> Value:
    """Kill a fork, and wait for the heartbeat of the one that the parent makes."""
    forks = psutil.Process(parent).children()
    known = {fork.pid for fork in forks}
    began = time.perf_counter()
    forks[0].kill()
    async with asyncio.timeout(PATIENCE):
        while not (new := [each.pid for each in psutil.Process(parent).children() if each.pid not in known]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await _until(stack, "SELECT 1 FROM processes WHERE id LIKE $1", f"%-{new[0]}-%")
    return time.perf_counter() - began


async def _until(stack: Stack, statement: str, *arguments: object) -> None:
    """Wait until a query finds something; over one connection, so that asking takes no processor time away."""
    connection = await asyncpg.connect(stack.database.replace("+asyncpg", ""))
    try:
        async with asyncio.timeout(PATIENCE):
            while not await connection.fetch(statement, *arguments):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    finally:
        await connection.close()
