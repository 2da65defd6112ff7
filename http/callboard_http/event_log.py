"""The committed log as readers see it: many of them ask at once, few queries answer.

In: legs, or sessions, and positions.
Out: what follows in the log, with where the leg and the session stand, all of one moment.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.chunk import Chunk
from callboard_http.gathered import Gathered
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.state_snapshot import ENDED, RunStatus
from callboard_runtime.persistence.database import connect

PAGE = 8  # segments read at once for one reader
PAGE_BYTES = 256 * 1024  # after which a page ends earlier; one segment is always read whole, and may have a megabyte
READERS_AT_ONCE = 32  # pages read by one query
GATHER = 0.02  # seconds in which questions about positions are collected


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
    """The log after a position, a page of it, and what was true at that moment.

    Of a session as a whole it says only where its log stands.
    """

    chunks: tuple[Chunk, ...]
    log: EventId  # the session's last committed event
    committed: int  # last committed seq of the position's own epoch
    gone: bool  # the session is a tombstone, or the run is no more
    complete: bool  # nothing more of the leg was in the log
    status: RunStatus | None = None  # of the run
    first_epoch: int | None = None
    end: EventId | None = None  # the leg's closing event
    thread_id: str = ""
    client_run_id: str = ""
    error_code: str | None = None
    error_message: str | None = None

    @property
    def over_without_end(self) -> bool:
        """Whether the run ended without this leg having an end in the log: as a rule it never had a worker."""
        return self.status in ENDED and self.end is None and self.complete and not self.chunks


# The page of each question. A leg's own epochs bound what is looked at, and its segments, not its events, are counted;
# a segment of the position's epoch that begins at or before the position may reach beyond it.
_PAGES = text(f"""
SELECT q.n, s.log_epoch, s.log_seq, s.deleted_at IS NOT NULL AS deleted, s.thread_id,
       r.status, r.error_code, r.error_message, l.client_run_id, l.first_epoch, l.last_epoch, l.last_seq AS end_seq,
       (SELECT o.last_seq FROM event_segments o WHERE o.session_id = s.id AND o.epoch = q.epoch
         ORDER BY o.first_seq DESC LIMIT 1) AS committed,
       g.epoch, g.first_seq, g.closing, g.lines, g.found
  FROM unnest(CAST(:sessions AS uuid[]), CAST(:runs AS uuid[]), CAST(:legs AS bigint[]), CAST(:epochs AS bigint[]),
              CAST(:seqs AS bigint[])) WITH ORDINALITY AS q(session_id, run_id, leg, epoch, seq, n)
  JOIN sessions s ON s.id = q.session_id
  LEFT JOIN runs r ON r.id = q.run_id
  LEFT JOIN run_legs l ON l.run_id = q.run_id AND l.leg = q.leg
  LEFT JOIN LATERAL (
       SELECT w.* FROM (
              SELECT e.*, count(*) OVER () AS found,
                     sum(octet_length(e.lines)) OVER (ORDER BY e.epoch, e.first_seq) - octet_length(e.lines) AS before
                FROM (SELECT c.epoch, c.first_seq, c.closing, c.lines FROM event_segments c
                       WHERE c.session_id = s.id AND (q.run_id IS NULL OR (c.run_id = q.run_id AND c.leg = q.leg))
                         AND c.epoch >= GREATEST(q.epoch, COALESCE(l.first_epoch, 0))
                         AND (c.epoch, c.first_seq) >= (q.epoch, COALESCE(
                             (SELECT max(b.first_seq) FROM event_segments b WHERE b.session_id = s.id
                                 AND b.epoch = q.epoch AND b.first_seq <= q.seq), 0))
                         AND (c.epoch, c.last_seq) > (q.epoch, q.seq)
                       ORDER BY c.epoch, c.first_seq LIMIT {PAGE}) e) w
        WHERE w.before < {PAGE_BYTES}) g ON true
 ORDER BY q.n, g.epoch, g.first_seq
""")  # noqa: S608 - constants of ours

_POSITIONS = text(
    "SELECT id, log_epoch, log_seq FROM sessions WHERE id = ANY(CAST(:ids AS uuid[])) AND deleted_at IS NULL"
)

Question = tuple[LegKey | SessionKey, EventId]  # what to read, and after which event


class EventLog:
    """Reads of committed events; every method raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # each read is one statement
        self._pages = Gathered(self._read_pages, most=READERS_AT_ONCE, at_once=2)
        self._positions = Gathered(self._read_positions, most=1000, linger=GATHER)

    async def page(self, key: LegKey | SessionKey, after: EventId) -> LegPage | None:
        """The events of a leg, or of all legs, after `after`, as one database snapshot has them.

        None for an unknown session.
        """
        return await self._pages.of((key, after))

    async def position(self, session_id: UUID) -> EventId | None:
        """The session's last committed event, read after this call; None if it is gone."""
        return await self._positions.of(session_id)

    async def _read_pages(self, asked: Sequence[Question]) -> dict[Question, LegPage]:
        legs = [key if isinstance(key, LegKey) else None for key, _ in asked]
        names = {
            "sessions": [key.session_id for key, _ in asked],
            "runs": [leg.run_id if leg else None for leg in legs],
            "legs": [leg.leg if leg else None for leg in legs],
            "epochs": [after.epoch for _, after in asked],
            "seqs": [after.seq for _, after in asked],
        }
        async with connect(self._engine) as connection:
            rows = (await connection.execute(_PAGES, names)).mappings().all()
        pages: dict[Question, LegPage] = {}
        for number, group in groupby(rows, lambda row: int(row["n"])):
            key, after = asked[number - 1]
            pages[key, after] = _page(key, list(group), after)
        return pages

    async def _read_positions(self, sessions: Sequence[UUID]) -> dict[UUID, EventId]:
        async with connect(self._engine) as connection:
            rows = await connection.execute(_POSITIONS, {"ids": list(sessions)})
            return {row.id: EventId(row.log_epoch, row.log_seq) for row in rows}


def _page(key: LegKey | SessionKey, rows: Sequence[Mapping[Any, Any]], after: EventId) -> LegPage:
    first = rows[0]
    chunks = tuple(_chunk(row, after) for row in rows if row["epoch"] is not None)
    common: dict[str, Any] = {
        "chunks": chunks,
        "log": EventId(first["log_epoch"], first["log_seq"]) if first["log_epoch"] else ORIGIN,
        "committed": first["committed"] or 0,
        "complete": len(chunks) < PAGE and len(chunks) == (first["found"] or 0),
    }
    if isinstance(key, SessionKey):
        return LegPage(**common, gone=first["deleted"])
    return LegPage(
        **common,
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
