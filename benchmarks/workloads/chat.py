"""Chat runs: one user message, one model call of 64 streamed tokens, on Callboard and on what it is compared with."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import uvloop

from benchmarks import meter
from benchmarks.browsers import Target, Visit, crowd
from benchmarks.meter import Groups
from benchmarks.results import Bars, Result, Row, Table, Value
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say, token
from callboard_runtime.load.stats import spread

AGUI_CREWAI = "CALLBOARD_BENCH_AGUI_CREWAI"  # the Python of an environment that has ag-ui-crewai
MOST_CREWS = 160  # runs, of five a second
STORED = "SELECT pg_database_size(current_database()) AS tables, pg_current_wal_lsn() - '0/0'::pg_lsn AS wal"


@dataclass(frozen=True)
class System:
    """A chat system that is running; `stack` if it keeps anything, `most` runs if more would take too long."""

    name: str
    target: Target
    groups: Groups
    stack: Stack | None = None
    most: int | None = None


def run(world: World, sizes: Sizes) -> Result:
    measured = [
        _measure(start(world), pace, at_once, runs, sizes.tokens)
        for pace in sizes.pace_ms
        for at_once, runs in sizes.chat.items()
        for start in _systems()  # side by side, so that a busy moment of the machine meets all of them
    ]
    rows = [row for row, _ in measured]
    return Result(
        "chat",
        (
            Table("Runs of one message and 64 tokens", tuple(rows)),
            Table("Callboard against the others, as ratios", tuple(_ratios(rows))),
            Table("Callboard's processor time per run, ms, by process", tuple(cpu for _, cpu in measured if cpu)),
        ),
        (
            "`added gap` is how much longer the text took between its first and last token than the model took, per "
            "token; `stall` is the longest silence inside a text (p95 over runs). Processor time is that of the "
            "system's own processes and services, without clients and model. Callboard alone keeps anything.",
        ),
        tuple(_plots(rows)),
    )


def _systems() -> list[Callable[[World], System]]:
    """Each is started when it is first its turn, and idles while others are measured."""
    systems = [_floor, _by_hand, _callboard]
    return [*systems, _agui_crewai, _agui_crew] if os.environ.get(AGUI_CREWAI) else systems


_started: dict[str, System] = {}


def _once(name: str, start: Callable[[], System]) -> System:
    if name not in _started:
        _started[name] = start()
    return _started[name]


def _floor(world: World) -> System:
    return _once("floor", lambda: _program(world, "floor: no LiteLLM", "floor"))


def _by_hand(world: World) -> System:
    return _once("by hand", lambda: _program(world, "LiteLLM by hand", "by_hand"))


def _agui_crewai(world: World) -> System:
    return _once("ag-ui-crewai", lambda: _program(world, "ag-ui-crewai", "agui_crewai", os.environ[AGUI_CREWAI]))


def _agui_crew(world: World) -> System:
    name, program = "ag-ui-crewai, a crew", "agui_crewai_crew"
    return _once(name, lambda: replace(_program(world, name, program, os.environ[AGUI_CREWAI]), most=MOST_CREWS))


def _callboard(world: World) -> System:
    stack = world.chat_stack
    target = Target(f"{stack.url}/api/v1/agent/agui/chat", {"Authorization": f"Bearer {token('bench')}"})
    return System("Callboard", target, stack.groups, stack)


def _program(world: World, name: str, program: str, python: str | None = None) -> System:
    options = {"python": python} if python else {}
    url, groups = world.metered(program, world.model, **options)
    return System(name, Target(f"{url}/run"), groups)


def _measure(system: System, pace: int, at_once: int, runs: int, tokens: int) -> tuple[Row, Row | None]:
    say(f"chat: {system.name}, {pace} ms per token, {at_once} at once, {runs} runs")
    return uvloop.run(_measured(system, pace, at_once, runs, tokens))


async def _measured(system: System, pace: int, at_once: int, runs: int, tokens: int) -> tuple[Row, Row | None]:
    runs = min(runs, system.most or runs)
    text = f"{tokens} tokens at {pace} ms"
    await crowd(system.target, text, tokens=tokens, runs=max(2, min(at_once, 20)), at_once=min(at_once, 20))
    stored = await _stored(system)
    before = meter.read(system.groups)
    one = tokens * pace / 1000  # users of whom all began at one moment would meet each other again and again
    visits, elapsed = await crowd(system.target, text, tokens=tokens, runs=runs, at_once=at_once, over=one)
    await asyncio.sleep(0.5)  # what is done after the last event belongs to the runs, too
    cpu = {name: 1000 * seconds / runs for name, seconds in meter.cpu_since(system.groups, before).items()}
    kept = await _stored(system)
    named: dict[str, Value] = {"system": system.name, "ms/token": pace, "at once": at_once}
    row = {
        **named,
        "runs": runs,
        **_figures(visits, elapsed, pace, tokens),
        "CPU ms/run": sum(cpu.values()),
        "memory MB": sum(meter.megabytes(system.groups).values()),
        "table B/run": (kept[0] - stored[0]) / runs if system.stack else None,
        "WAL B/run": (kept[1] - stored[1]) / runs if system.stack else None,
        "errors": _errors(visits),
    }
    return row, ({**named, **cpu} if system.stack else None)


async def _stored(system: System) -> tuple[float, float]:
    """Bytes of the database, and of its log so far."""
    if system.stack is None:
        return 0.0, 0.0
    [row] = await system.stack.query(STORED)
    return float(row["tables"]), float(row["wal"])


def _figures(visits: list[Visit], elapsed: float, pace: int, tokens: int) -> dict[str, Value]:
    good = [visit for visit in visits if visit.error is None]
    first = spread(visit.arrivals[0] for visit in good)
    total = spread(visit.total for visit in good)
    gaps = spread(1000 * (v.arrivals[-1] - v.arrivals[0]) / (tokens - 1) - pace for v in good if tokens > 1)
    stalls = spread(max(map(_minus, v.arrivals[1:], v.arrivals), default=0.0) for v in good)
    return {
        "runs/s": len(good) / elapsed,
        "TTFT p50 ms": 1000 * first.p50 if first else None,
        "p95": 1000 * first.p95 if first else None,
        "p99": 1000 * first.p99 if first else None,
        "total p50 ms": 1000 * total.p50 if total else None,
        "added gap ms": gaps.p50 if gaps else None,
        "stall ms": 1000 * stalls.p95 if stalls else None,
    }


def _minus(later: float, earlier: float) -> float:
    return later - earlier


def _errors(visits: list[Visit]) -> Value:
    failed = [visit.error for visit in visits if visit.error]
    return f"{len(failed)}: {max(set(failed), key=failed.count)}" if failed else 0


def _ratios(rows: list[Row]) -> list[Row]:
    """How many times as much as each of the others; above 1 is better for runs/s, worse for the rest."""
    found: list[Row] = []
    for row in rows:
        if row["system"] != "Callboard":
            continue
        for other in rows:
            if other["system"] != "Callboard" and (other["ms/token"], other["at once"]) == (
                row["ms/token"],
                row["at once"],
            ):
                compared = {name: _ratio(row[name], other[name]) for name in ("runs/s", "TTFT p50 ms", "CPU ms/run")}
                found.append(
                    {"against": other["system"], "ms/token": row["ms/token"], "at once": row["at once"], **compared}
                )
    return found


def _ratio(ours: Value, theirs: Value) -> float | None:
    return ours / theirs if isinstance(ours, int | float) and isinstance(theirs, int | float) and theirs else None


def _plots(rows: list[Row]) -> list[Bars]:
    """The busiest column of the table, system by system."""
    most = max(int(row["at once"] or 0) for row in rows)
    pace = max(int(row["ms/token"] or 0) for row in rows)
    chosen = [row for row in rows if (row["at once"], row["ms/token"]) == (most, pace)]
    wanted = {"runs/s": "runs/s", "CPU ms/run": "ms", "TTFT p50 ms": "ms"}
    return [
        Bars(
            f"{name}, {most} at once, {pace} ms per token",
            unit,
            tuple((str(row["system"]), float(row[name] or 0)) for row in chosen),
        )
        for name, unit in wanted.items()
    ]
