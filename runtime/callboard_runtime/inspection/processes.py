"""Processes, partitions and what waits, out of the database."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.state_snapshot import ENDED, RunStatus
from callboard_runtime.inspection.database import Question, Row, question
from callboard_runtime.inspection.views import Backlog, PartitionLine, ProcessLine, RunCount

MOST = 100_000  # rows counted
SHOWN = 500  # processes
LIVE = [str(status) for status in RunStatus if status not in ENDED]

_PROCESSES = text("""
SELECT *, greatest(0, extract(epoch FROM clock_timestamp() - beat_at))::float8 AS silent
  FROM processes ORDER BY kind, started_at LIMIT :count
""")
_PARTITIONS = text("""
SELECT p.*, CASE WHEN p.owner IS NOT NULL THEN
       coalesce((SELECT o.beat_at > clock_timestamp() - make_interval(secs => :silent_after)
                   FROM processes o WHERE o.id = p.owner), false) END AS owner_alive
  FROM partitions p ORDER BY p.partition
""")
_RUNS = text("""
SELECT status, count(*) AS runs, min(created_at) AS oldest
  FROM (SELECT status, created_at FROM runs WHERE status = ANY(:statuses) LIMIT :most) live GROUP BY status
""")
_OUTBOX = text("""
SELECT count(*) AS due, min(created_at) AS oldest
  FROM (SELECT created_at FROM outbox WHERE due_at <= now() LIMIT :most) waiting
""")
_PID = re.compile(r"-(\d+)-[0-9a-f]+$")  # the names of processes end with the pid and something random


async def list_processes(engine: AsyncEngine, silent_after: float) -> tuple[ProcessLine, ...]:
    """Everybody who was heard of lately; alive means within `silent_after` seconds."""
    async with question(engine) as ask:
        return await _processes(ask, silent_after)


async def list_partitions(engine: AsyncEngine, silent_after: float) -> tuple[PartitionLine, ...]:
    """Every partition and who took it last."""
    async with question(engine) as ask:
        rows = await ask.rows(_PARTITIONS, silent_after=silent_after)
    return tuple(map(PartitionLine.model_validate, rows))


async def processes_and_backlog(engine: AsyncEngine, silent_after: float) -> tuple[tuple[ProcessLine, ...], Backlog]:
    """Who is there, and what waits, at one moment."""
    async with question(engine) as ask:
        processes = await _processes(ask, silent_after)
        runs = await ask.rows(_RUNS, statuses=LIVE, most=MOST)
        [outbox] = await ask.rows(_OUTBOX, most=MOST)
    return processes, Backlog(
        runs=_counts(runs), outbox_due=outbox["due"], outbox_oldest=outbox["oldest"], counted_to=MOST
    )


async def _processes(ask: Question, silent_after: float) -> tuple[ProcessLine, ...]:
    rows = await ask.rows(_PROCESSES, count=SHOWN)
    return tuple(
        ProcessLine.model_validate({**row, "pid": _pid(row["id"]), "alive": row["silent"] <= silent_after})
        for row in rows
    )


def _counts(rows: Iterable[Row]) -> tuple[RunCount, ...]:
    found = {row["status"]: row for row in rows}
    nothing = {"runs": 0, "oldest": None}
    return tuple(
        RunCount(status=RunStatus(name), **{key: found.get(name, nothing)[key] for key in nothing}) for name in LIVE
    )


def _pid(process: str) -> int | None:
    found = _PID.search(process)
    return int(found[1]) if found else None
