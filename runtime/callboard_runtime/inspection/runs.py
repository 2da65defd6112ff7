"""Everybody's runs, a page at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.inspection.database import Row, question
from callboard_runtime.inspection.paging import NEWEST, Position, check_count, page_of
from callboard_runtime.inspection.sessions import usage
from callboard_runtime.inspection.views import RunLine, RunList

COLUMNS = """r.id, r.client_run_id, r.session_id, s.thread_id, r.user_id, r.agent_id, r.status, r.leg, r.calls,
       r.input_tokens, r.output_tokens, r.total_tokens, r.cost, r.unpriced_calls, r.error_code, r.created_at,
       r.started_at, r.ended_at"""
_MATCHES = """(r.created_at, r.id) < (:at, :id)
           AND (CAST(:agent_id AS text) IS NULL OR r.agent_id = :agent_id)
           AND (CAST(:since AS timestamptz) IS NULL OR r.created_at >= :since)
           AND (CAST(:until AS timestamptz) IS NULL OR r.created_at < :until)
         ORDER BY r.created_at DESC, r.id DESC LIMIT :count"""
_OF_SESSION = text(f"""
SELECT {COLUMNS} FROM runs r JOIN sessions s ON s.id = r.session_id
 WHERE r.session_id = :session AND r.status = ANY(:statuses) AND {_MATCHES}
""")  # noqa: S608
# One index scan per status, each of which ends after a page.
_OF_ALL = text(f"""
SELECT {COLUMNS} FROM unnest(CAST(:statuses AS text[])) wanted(name)
 CROSS JOIN LATERAL (SELECT * FROM runs r WHERE r.status = wanted.name AND {_MATCHES}) r
  JOIN sessions s ON s.id = r.session_id
 ORDER BY r.created_at DESC, r.id DESC LIMIT :count
""")  # noqa: S608


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs; nothing named means all. `session` is internal; created at `since` or later, and before `until`."""

    session: UUID | None = None
    statuses: Sequence[RunStatus] = tuple(RunStatus)
    agent_id: str | None = None
    since: datetime | None = None
    until: datetime | None = None


async def list_runs(engine: AsyncEngine, wanted: RunFilter, count: int, after: str | None) -> RunList:
    """The newest first. Raises InvalidInput for a wrong `after` or `count`."""
    start = Position.parse(after) if after is not None else NEWEST
    names: dict[str, Any] = {
        "statuses": [str(status) for status in wanted.statuses],
        "agent_id": wanted.agent_id,
        "since": wanted.since,
        "until": wanted.until,
        "at": start.at,
        "id": start.id,
        "count": check_count(count) + 1,
    }
    async with question(engine) as ask:
        if wanted.session:
            rows = await ask.rows(_OF_SESSION, session=wanted.session, **names)
        else:
            rows = await ask.rows(_OF_ALL, **names)
    kept, following = page_of(rows, count, "created_at")
    return RunList(runs=tuple(map(run_line, kept)), next=following)


def run_line(row: Row) -> RunLine:
    return RunLine(
        id=row["id"],
        run_id=row["client_run_id"],
        session=row["session_id"],
        session_id=row["thread_id"],
        user_id=row["user_id"],
        agent_id=row["agent_id"],
        status=RunStatus(row["status"]),
        leg=row["leg"],
        calls=row["calls"],
        usage=usage(row),
        error_code=row["error_code"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        ended_at=row["ended_at"],
    )
