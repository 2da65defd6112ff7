"""The committed log as a reader sees it.

In: a leg and a position.
Out: what follows in the log, with where the leg and the session stand, all of one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.chunk import Chunk
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.state_snapshot import ENDED, RunStatus
from callboard_runtime.persistence.database import connect

PAGE = 8  # segments read at once: a segment may have a megabyte, and each slow reader holds one page


@dataclass(frozen=True, slots=True)
class LegKey:
    """One leg of one run, by internal ids."""

    session_id: UUID
    run_id: UUID
    leg: int


@dataclass(frozen=True, slots=True)
class SessionKey:
    """All legs of all runs of one session, by its internal id."""

    session_id: UUID


@dataclass(frozen=True, slots=True)
class LegPage:
    """The log after a position, up to `PAGE` segments, and what was true at that moment.

    Of a session as a whole it says only where its log stands.
    """

    chunks: tuple[Chunk, ...]
    log: EventId  # the session's last committed event
    committed: int  # last committed seq of the position's own epoch
    gone: bool  # the session is a tombstone, or the run is no more
    status: RunStatus | None = None  # of the run
    first_epoch: int | None = None
    end: EventId | None = None  # the leg's closing event
    thread_id: str = ""
    client_run_id: str = ""
    error_code: str | None = None
    error_message: str | None = None

    @property
    def complete(self) -> bool:
        """Whether nothing more of the leg was in the log."""
        return len(self.chunks) < PAGE

    @property
    def never_started(self) -> bool:
        """Whether the run ended without this leg ever having had an event."""
        return self.status in ENDED and self.first_epoch is None and not self.chunks


_PAGE = text(f"""
SELECT s.log_epoch, s.log_seq, s.deleted_at IS NOT NULL AS deleted, s.thread_id,
       r.status, r.error_code, r.error_message, l.client_run_id, l.first_epoch, l.last_epoch, l.last_seq AS end_seq,
       (SELECT max(o.last_seq) FROM event_segments o WHERE o.session_id = s.id AND o.epoch = :epoch) AS committed,
       g.epoch, g.first_seq, g.closing, g.lines
  FROM sessions s
  LEFT JOIN runs r ON r.id = :run_id
  LEFT JOIN run_legs l ON l.run_id = r.id AND l.leg = :leg
  LEFT JOIN LATERAL (
       SELECT e.epoch, e.first_seq, e.closing, e.lines FROM event_segments e
        WHERE e.session_id = s.id AND e.run_id = :run_id AND e.leg = :leg
          AND e.epoch >= :epoch AND (e.epoch, e.last_seq) > (:epoch, :seq)
        ORDER BY e.epoch, e.first_seq LIMIT {PAGE}) g ON true
 WHERE s.id = :session_id
""")  # noqa: S608 - PAGE is a constant of ours

_SESSION_PAGE = text(f"""
SELECT s.log_epoch, s.log_seq, s.deleted_at IS NOT NULL AS deleted,
       (SELECT max(o.last_seq) FROM event_segments o WHERE o.session_id = s.id AND o.epoch = :epoch) AS committed,
       g.epoch, g.first_seq, g.closing, g.lines
  FROM sessions s
  LEFT JOIN LATERAL (
       SELECT e.epoch, e.first_seq, e.closing, e.lines FROM event_segments e
        WHERE e.session_id = s.id AND e.epoch >= :epoch AND (e.epoch, e.last_seq) > (:epoch, :seq)
        ORDER BY e.epoch, e.first_seq LIMIT {PAGE}) g ON true
 WHERE s.id = :session_id
""")  # noqa: S608 - PAGE is a constant of ours

# The oldest event that is kept, if an older one was pruned: a session's first event has the epoch of its first attempt.
_OLDEST = text("""
SELECT COALESCE(o.epoch, s.log_epoch) AS epoch, COALESCE(o.first_seq, s.log_seq + 1) AS first_seq
  FROM sessions s
  LEFT JOIN LATERAL (SELECT e.epoch, e.first_seq FROM event_segments e WHERE e.session_id = s.id
                      ORDER BY e.epoch, e.first_seq LIMIT 1) o ON true
 WHERE s.id = :session_id AND s.log_epoch > 0
   AND (o.epoch IS NULL OR o.first_seq > 1
        OR o.epoch > (SELECT min(a.epoch) FROM run_attempts a WHERE a.session_id = s.id))
""")

_POSITIONS = text("SELECT id, log_epoch, log_seq FROM sessions WHERE id = ANY(:ids) AND deleted_at IS NULL")


class EventLog:
    """Reads of committed events; every method raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(self, key: LegKey | SessionKey, after: EventId) -> LegPage | None:
        """The events of a leg, or of all legs, after `after`, as one database snapshot has them.

        None for an unknown session.
        """
        names = {"session_id": key.session_id, "epoch": after.epoch, "seq": after.seq}
        one_leg = {"run_id": key.run_id, "leg": key.leg} if isinstance(key, LegKey) else {}
        async with connect(self._engine) as connection:
            found = await connection.execute(_PAGE if one_leg else _SESSION_PAGE, names | one_leg)
            rows = found.mappings().all()
        if not rows:
            return None
        return _leg_page(rows, after) if one_leg else LegPage(**_common(rows, after), gone=rows[0]["deleted"])

    async def pruned_before(self, session_id: UUID) -> EventId | None:
        """The oldest event that is kept of a session whose first ones are not; None while all are."""
        async with connect(self._engine) as connection:
            row = (await connection.execute(_OLDEST, {"session_id": session_id})).one_or_none()
        return EventId(row.epoch, row.first_seq) if row else None

    async def positions(self, sessions: Iterable[UUID]) -> dict[UUID, EventId]:
        """The last committed event of each session that exists."""
        async with connect(self._engine) as connection:
            rows = await connection.execute(_POSITIONS, {"ids": list(sessions)})
            return {row.id: EventId(row.log_epoch, row.log_seq) for row in rows}


def _common(rows: Sequence[Mapping[Any, Any]], after: EventId) -> dict[str, Any]:
    """What the pages of legs and of sessions have in common."""
    first = rows[0]
    return {
        "chunks": tuple(_chunk(row, after) for row in rows if row["epoch"] is not None),
        "log": EventId(first["log_epoch"], first["log_seq"]) if first["log_epoch"] else ORIGIN,
        "committed": first["committed"] or 0,
    }


def _leg_page(rows: Sequence[Mapping[Any, Any]], after: EventId) -> LegPage:
    first = rows[0]
    return LegPage(
        **_common(rows, after),
        gone=first["deleted"] or first["status"] is None,
        status=RunStatus(first["status"]) if first["status"] else None,
        first_epoch=first["first_epoch"],
        end=EventId(first["last_epoch"], first["end_seq"]) if first["end_seq"] is not None else None,
        thread_id=first["thread_id"],
        client_run_id=first["client_run_id"] or "",
        error_code=first["error_code"],
        error_message=first["error_message"],
    )


def _chunk(row: Mapping[Any, Any], after: EventId) -> Chunk:
    chunk = Chunk(row["epoch"], row["first_seq"], row["lines"].encode(), row["closing"])
    return chunk.after(after.seq) if chunk.epoch == after.epoch else chunk
