"""The committed log as a reader sees it.

In: a leg and a position.
Out: what follows in the log, with where the leg and the session stand, all of one moment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
class LegPage:
    """The log after a position, up to `PAGE` segments, and what was true at that moment."""

    chunks: tuple[Chunk, ...]
    log: EventId  # the session's last committed event
    committed: int  # last committed seq of the position's own epoch
    deleted: bool  # the session is a tombstone
    status: RunStatus | None  # of the run; None when it is gone
    first_epoch: int | None
    end: EventId | None  # the leg's closing event
    thread_id: str
    client_run_id: str
    error_code: str | None
    error_message: str | None

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

_POSITIONS = text("SELECT id, log_epoch, log_seq FROM sessions WHERE id = ANY(:ids) AND deleted_at IS NULL")


class EventLog:
    """Reads of committed events; every method raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def page(self, key: LegKey, after: EventId) -> LegPage | None:
        """The leg's events after `after`, as one database snapshot has them; None for an unknown session."""
        parameters = {
            "session_id": key.session_id,
            "run_id": key.run_id,
            "leg": key.leg,
            "epoch": after.epoch,
            "seq": after.seq,
        }
        async with connect(self._engine) as connection:
            rows = (await connection.execute(_PAGE, parameters)).mappings().all()
        return _leg_page(rows, after) if rows else None

    async def positions(self, sessions: Iterable[UUID]) -> dict[UUID, EventId]:
        """The last committed event of each session that exists."""
        async with connect(self._engine) as connection:
            rows = await connection.execute(_POSITIONS, {"ids": list(sessions)})
            return {row.id: EventId(row.log_epoch, row.log_seq) for row in rows}


def _leg_page(rows: Iterable[Mapping[Any, Any]], after: EventId) -> LegPage:
    rows = list(rows)
    first = rows[0]
    return LegPage(
        chunks=tuple(_chunk(row, after) for row in rows if row["epoch"] is not None),
        log=EventId(first["log_epoch"], first["log_seq"]) if first["log_epoch"] else ORIGIN,
        committed=first["committed"] or 0,
        deleted=first["deleted"],
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
