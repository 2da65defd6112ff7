"""What is kept for how long: which sessions hold something past its retention, and how a commit removes it.

In: `CALLBOARD_RETENTION__…`. Out: `PruneSession` commands and, for those that were decided, the SQL of their commit.
Only what belongs to ended runs goes, and of the log always its beginning: a reader behind it is told so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.domain.commands import PruneSession
from callboard_runtime.domain.events import SessionPruned
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.settings import RetentionSettings

EVERY = 600.0  # seconds between two looks
AT_ONCE = 200  # runs, or epochs of the log, that one commit removes; the rest waits for the next look
SESSIONS = 500  # commands per look
CLAIMS_KEPT = 3600.0  # seconds

_HOLDS = """
SELECT DISTINCT r.session_id FROM runs r
WHERE r.ended_at < CAST(:before AS timestamptz) AND {holds} LIMIT :batch
"""
_QUERIES = {
    "events_before": "EXISTS (SELECT 1 FROM event_segments s WHERE s.session_id = r.session_id AND s.run_id = r.id)",
    "journals_before": "EXISTS (SELECT 1 FROM run_steps s WHERE s.run_id = r.id)",
    "runs_before": "true",
}

# All epochs before that of the first run that is live or young, so that the log never has a hole.
_EVENTS = """
DELETE FROM event_segments WHERE session_id = {session} AND epoch < LEAST(
  (SELECT min(epoch) + {at_once} FROM event_segments WHERE session_id = {session}),
  (SELECT min(a.epoch) FROM run_attempts a JOIN runs r ON r.id = a.run_id
   WHERE a.session_id = {session} AND (r.ended_at IS NULL OR r.ended_at >= {before}))
) RETURNING 1
"""
_OLD = "(SELECT id FROM runs WHERE session_id = {session} AND ended_at < {before} ORDER BY ended_at LIMIT {at_once})"
_JOURNALS = "DELETE FROM run_steps WHERE run_id IN {old} RETURNING 1"
_RUNS = "DELETE FROM runs WHERE id IN {old} RETURNING 1"
_AUDIT = text("DELETE FROM audit_log WHERE at < now() - make_interval(secs => :seconds)")

_CLAIMS = text("DELETE FROM command_claims WHERE created_at < now() - make_interval(secs => :seconds)")


async def due(connection: AsyncConnection, kept: RetentionSettings) -> list[PruneSession]:
    """A command for every session that holds something past its time, at most `SESSIONS` of each kind."""
    commands: dict[UUID, PruneSession] = {}
    for name, before in _limits(kept).items():
        query = text(_HOLDS.format(holds=_QUERIES[name]))
        found = await connection.execute(query, {"before": before, "batch": SESSIONS})
        for session in found.scalars():
            command = commands.get(session, PruneSession(session_id=session))
            commands[session] = command.model_copy(update={name: before})
    return list(commands.values())


async def forget_audit(connection: AsyncConnection, kept: RetentionSettings) -> None:
    """Remove old audit rows, which belong to no session's state."""
    if kept.audit:
        await connection.execute(_AUDIT, {"seconds": kept.audit})


async def forget_claims(connection: AsyncConnection) -> None:
    """Remove large commands whose messages will not come again."""
    await connection.execute(_CLAIMS, {"seconds": CLAIMS_KEPT})


def _limits(kept: RetentionSettings) -> dict[str, datetime]:
    now = utcnow()
    seconds = {"events_before": kept.events, "journals_before": kept.journals, "runs_before": kept.runs}
    return {name: now - timedelta(seconds=value) for name, value in seconds.items() if value}


def statements(pruned: SessionPruned, bind: Callable[[object], str]) -> list[str]:
    """The deletions of one decided command; `bind` takes a parameter and returns its placeholder."""
    session = f"{bind(pruned.session_id)}::uuid"
    # A run that goes takes its events along.
    events = max(filter(None, (pruned.events_before, pruned.runs_before)), default=None)
    wanted = ((_EVENTS, events), (_JOURNALS, pruned.journals_before), (_RUNS, pruned.runs_before))
    return [_filled(sql, session, f"{bind(before)}::timestamptz") for sql, before in wanted if before is not None]


def _filled(sql: str, session: str, before: str) -> str:
    place = {"session": session, "before": before, "at_once": AT_ONCE}
    return sql.format(old=_OLD.format(**place), **place)
