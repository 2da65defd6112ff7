"""What is kept for how long: which sessions hold something past its retention, and how a commit removes it.

In: `CALLBOARD_RETENTION__…`. Out: `PruneSession` commands and, for those that were decided, the SQL of their commit.
Only what belongs to ended runs goes, and of the log always its beginning: a reader behind it is told so.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.domain.commands import PruneSession
from callboard_runtime.domain.events import SessionPruned
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.settings import RetentionSettings

EVERY = 600.0  # seconds between two looks
SOON = 5.0  # seconds, while more is due than one look takes
AT_ONCE = 200  # runs, or epochs of the log, that one commit removes; the rest waits for the next look
SESSIONS = 500  # commands per look
AUDIT_ROWS = 5000  # that one look removes; the rest waits for the next
CLAIMS = 1000  # the same; each may be as large as a request
CLAIMS_KEPT = 3600.0  # seconds

# Only what a commit can remove now: what has to wait would otherwise fill every look. The oldest goes first.
_KEPT = "(r.ended_at IS NULL OR r.ended_at >= CAST(:before AS timestamptz))"
_EVENTS_DUE = f"""
SELECT o.session_id, EXISTS (
  SELECT 1 FROM event_segments s JOIN runs r ON r.id = s.run_id
  WHERE s.session_id = o.session_id AND s.epoch >= first.epoch + :at_once AND NOT {_KEPT}
) AS long
FROM (SELECT DISTINCT session_id FROM runs WHERE ended_at < CAST(:before AS timestamptz)) o
CROSS JOIN LATERAL (
  SELECT epoch, created_at FROM event_segments s WHERE s.session_id = o.session_id ORDER BY epoch LIMIT 1
) first
WHERE NOT EXISTS (
  SELECT 1 FROM run_attempts a JOIN runs r ON r.id = a.run_id
  WHERE a.session_id = o.session_id AND a.epoch <= first.epoch AND {_KEPT}
) ORDER BY first.created_at LIMIT :batch
"""  # noqa: S608 - our own words
_JOURNALS_DUE = """
SELECT r.session_id, count(*) > :at_once AS long FROM runs r
WHERE r.ended_at < CAST(:before AS timestamptz) AND EXISTS (SELECT 1 FROM run_steps s WHERE s.run_id = r.id)
GROUP BY r.session_id ORDER BY min(r.ended_at) LIMIT :batch
"""
_RUNS_DUE = f"""
WITH old AS (SELECT id, session_id, ended_at FROM runs WHERE ended_at < CAST(:before AS timestamptz)),
kept AS (
  SELECT a.session_id, min(a.epoch) AS epoch FROM run_attempts a JOIN runs r ON r.id = a.run_id
  WHERE a.session_id IN (SELECT session_id FROM old) AND {_KEPT} GROUP BY a.session_id
)
SELECT old.session_id, count(*) > :at_once AS long FROM old LEFT JOIN kept ON kept.session_id = old.session_id
WHERE NOT EXISTS (SELECT 1 FROM run_attempts a WHERE a.run_id = old.id AND a.epoch > kept.epoch)
GROUP BY old.session_id ORDER BY min(old.ended_at) LIMIT :batch
"""  # noqa: S608 - our own words
_DUE = {
    "events_before": text(_EVENTS_DUE),
    "journals_before": text(_JOURNALS_DUE),
    "runs_before": text(_RUNS_DUE),
}

# All epochs before that of the first run that is live or young, so that the log never has a hole.
_LOG_BEGINS = """LEAST(
  (SELECT min(epoch) + {at_once} FROM event_segments WHERE session_id = {session}),
  (SELECT min(a.epoch) FROM run_attempts a JOIN runs r ON r.id = a.run_id
   WHERE a.session_id = {session} AND (r.ended_at IS NULL OR r.ended_at >= {before}))
)"""
_EVENTS = "DELETE FROM event_segments WHERE session_id = {session} AND epoch < {log_begins} RETURNING 1"
_JOURNALS = """
DELETE FROM run_steps WHERE run_id IN (
  SELECT r.id FROM runs r WHERE r.session_id = {session} AND r.ended_at < {before}
    AND EXISTS (SELECT 1 FROM run_steps s WHERE s.run_id = r.id)
  ORDER BY r.ended_at LIMIT {at_once}
) RETURNING 1"""
# None whose events stay: nobody would look for the events of a run that is gone.
_RUNS = """
DELETE FROM runs WHERE id IN (
  SELECT r.id FROM runs r WHERE r.session_id = {session} AND r.ended_at < {before}
    AND NOT EXISTS (SELECT 1 FROM run_attempts o WHERE o.run_id = r.id AND o.epoch >= {log_begins})
  ORDER BY r.ended_at LIMIT {at_once}
) RETURNING 1"""
# All at once could take longer than a statement may, and so would every later try. No order: there is no index on the
# time, and what is old comes first anyway.
_AUDIT = text("""
DELETE FROM audit_log WHERE id IN (
  SELECT id FROM audit_log WHERE at < now() - make_interval(secs => :seconds) LIMIT :batch
)
""")
_CLAIMS = text("""
DELETE FROM command_claims WHERE id IN (
  SELECT id FROM command_claims WHERE created_at < now() - make_interval(secs => :seconds) LIMIT :batch
)
""")


async def due(connection: AsyncConnection, kept: RetentionSettings) -> tuple[list[PruneSession], bool]:
    """A command for every session that holds something past its time, at most `SESSIONS` of each kind, oldest first.

    Says too whether more is due than these commands remove.
    """
    commands: dict[UUID, PruneSession] = {}
    more = False
    for name, before in _limits(kept).items():
        place = {"before": before, "batch": SESSIONS, "at_once": AT_ONCE}
        found = (await connection.execute(_DUE[name], place)).all()
        more = more or len(found) == SESSIONS or any(row.long for row in found)
        for row in found:
            command = commands.get(row.session_id, PruneSession(session_id=row.session_id))
            commands[row.session_id] = command.model_copy(update={name: before})
    return list(commands.values()), more


async def forget_audit(connection: AsyncConnection, kept: RetentionSettings) -> bool:
    """Remove old audit rows, which belong to no session's state, at most `AUDIT_ROWS`; says whether more may be due."""
    return bool(kept.audit) and await _forget(connection, _AUDIT, kept.audit, AUDIT_ROWS)


async def forget_claims(connection: AsyncConnection) -> bool:
    """Remove large commands whose messages will not come again, at most `CLAIMS`; says whether more may be due."""
    return await _forget(connection, _CLAIMS, CLAIMS_KEPT, CLAIMS)


async def _forget(connection: AsyncConnection, statement: TextClause, seconds: float, batch: int) -> bool:
    return (await connection.execute(statement, {"seconds": seconds, "batch": batch})).rowcount == batch


def _limits(kept: RetentionSettings) -> dict[str, datetime]:
    now = utcnow()
    seconds = {"events_before": kept.events, "journals_before": kept.journals, "runs_before": kept.runs}
    return {name: now - timedelta(seconds=value) for name, value in seconds.items() if value}


def statements(pruned: SessionPruned, bind: Callable[[object], str]) -> list[str]:
    """The deletions of one decided command; `bind` takes a parameter and returns its placeholder."""

    def time(before: datetime) -> str:
        return f"{bind(before)}::timestamptz"

    place: dict[str, object] = {"session": f"{bind(pruned.session_id)}::uuid", "at_once": AT_ONCE}
    found: list[str] = []
    # A run that goes takes its events along.
    if events := max(filter(None, (pruned.events_before, pruned.runs_before)), default=None):
        place["log_begins"] = _LOG_BEGINS.format(before=time(events), **place)
        found.append(_EVENTS.format(**place))
    if pruned.journals_before:
        found.append(_JOURNALS.format(before=time(pruned.journals_before), **place))
    if pruned.runs_before:
        found.append(_RUNS.format(before=time(pruned.runs_before), **place))
    return found
