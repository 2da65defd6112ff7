"""What the opening of a stream has to know of its run, in one read that many openings share.

In: a user and the id of a run, or of one of its legs.
Out: the run's legs, where its session's log stands, and from where on it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.gathered import Gathered
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.ids import run_uuid
from callboard_runtime.errors import Gone, NotFound
from callboard_runtime.persistence.database import connect

AT_ONCE = 64  # openings served by one query


@dataclass(frozen=True, slots=True)
class OpenLeg:
    """A leg; `first_epoch` is None until it has events, `end` is the id of its closing event."""

    leg: int
    client_run_id: str
    first_epoch: int | None
    end: EventId | None


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a session's log stood at one moment."""

    session_id: UUID
    log: EventId  # the last committed event
    oldest: EventId | None  # the oldest event that is kept, if an older one was pruned
    committed: int  # the last committed seq of the epoch that was asked about


@dataclass(frozen=True, slots=True)
class Opening:
    """A run and its session at one moment."""

    id: UUID
    client_run_id: str
    deleted: bool
    standing: Standing
    legs: tuple[OpenLeg, ...]

    def named(self, run_id: str) -> OpenLeg | None:
        """The run's last leg; under a later leg's runId, the last leg that has it."""
        legs = [leg for leg in self.legs if leg.client_run_id == run_id] if run_id != self.client_run_id else self.legs
        return legs[-1] if legs else None


# A session's first event has the epoch of its first attempt: an event is the oldest of all if it begins that epoch.
OLDEST = """
  LEFT JOIN LATERAL (SELECT e.epoch, e.first_seq FROM event_segments e WHERE e.session_id = s.id
                      ORDER BY e.epoch, e.first_seq LIMIT 1) o ON true
  LEFT JOIN LATERAL (SELECT a.epoch FROM run_attempts a WHERE a.session_id = s.id
                      ORDER BY a.epoch LIMIT 1) a ON true
"""

_OPENINGS = text(f"""
SELECT q.n, r.id, r.session_id, r.client_run_id, s.deleted_at IS NOT NULL AS deleted, s.log_epoch, s.log_seq,
       o.epoch AS oldest_epoch, o.first_seq AS oldest_seq, a.epoch AS first_epoch,
       (SELECT c.last_seq FROM event_segments c WHERE c.session_id = s.id AND c.epoch = q.epoch
         ORDER BY c.first_seq DESC LIMIT 1) AS committed,
       (SELECT json_agg(json_build_array(l.leg, l.client_run_id, l.first_epoch, l.last_epoch, l.last_seq)
                        ORDER BY l.leg)
          FROM run_legs l WHERE l.run_id = r.id) AS legs
  FROM unnest(CAST(:users AS text[]), CAST(:names AS text[]), CAST(:ids AS uuid[]), CAST(:epochs AS bigint[]))
       WITH ORDINALITY AS q(user_id, name, run_id, epoch, n)
  JOIN runs r ON r.user_id = q.user_id AND r.id = COALESCE(
       (SELECT d.id FROM runs d WHERE d.id = q.run_id AND d.user_id = q.user_id),
       (SELECT l.run_id FROM run_legs l WHERE l.user_id = q.user_id AND l.client_run_id = q.name
         ORDER BY l.created_at DESC LIMIT 1))
  JOIN sessions s ON s.id = r.session_id
{OLDEST}
""")  # noqa: S608 - a constant of ours

_SESSION = text(f"""
SELECT s.log_epoch, s.log_seq, o.epoch AS oldest_epoch, o.first_seq AS oldest_seq, a.epoch AS first_epoch,
       (SELECT c.last_seq FROM event_segments c WHERE c.session_id = s.id AND c.epoch = :epoch
         ORDER BY c.first_seq DESC LIMIT 1) AS committed
  FROM sessions s {OLDEST} WHERE s.id = :session_id AND s.deleted_at IS NULL
""")  # noqa: S608 - a constant of ours

Question = tuple[str, str, int]  # the user, the runId, and the epoch of the cursor


class Openings:
    """Reads of what openings have to know; raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine.execution_options(isolation_level="AUTOCOMMIT")  # each read is one statement
        self._gathered = Gathered(self._read, most=AT_ONCE, at_once=2)

    async def of(self, user_id: str, run_id: str, epoch: int = 0) -> Opening:
        """The user's run of this id, or the one of which a leg has it; raises NotFound, or Gone when it was deleted."""
        opening = await self._gathered.of((user_id, run_id, epoch))
        if opening is None:
            raise NotFound(f"there is no run {run_id}")
        if opening.deleted:
            raise Gone("the session of this run was deleted")
        return opening

    async def session(self, session_id: UUID, epoch: int) -> Standing:
        """The same of a session alone; of one that is gone, as if nothing had happened in it."""
        async with connect(self._engine) as connection:
            found = await connection.execute(_SESSION, {"session_id": session_id, "epoch": epoch})
            row = found.mappings().one_or_none()
        return _standing(session_id, row) if row else Standing(session_id, ORIGIN, None, 0)

    async def _read(self, asked: Sequence[Question]) -> dict[Question, Opening]:
        names = {
            "users": [user for user, _, _ in asked],
            "names": [name for _, name, _ in asked],
            "ids": [run_uuid(user, name) for user, name, _ in asked],
            "epochs": [epoch for _, _, epoch in asked],
        }
        async with connect(self._engine) as connection:
            rows = (await connection.execute(_OPENINGS, names)).mappings().all()
        return {asked[row["n"] - 1]: _opening(row) for row in rows}


def _opening(row: Mapping[Any, Any]) -> Opening:
    legs = tuple(
        OpenLeg(leg, name, first, None if seq is None else EventId(epoch, seq))
        for leg, name, first, epoch, seq in row["legs"] or ()
    )
    return Opening(row["id"], row["client_run_id"], row["deleted"], _standing(row["session_id"], row), legs)


def _standing(session_id: UUID, row: Mapping[Any, Any]) -> Standing:
    log = EventId(row["log_epoch"], row["log_seq"]) if row["log_epoch"] else ORIGIN
    return Standing(session_id, log, _oldest(row), row["committed"] or 0)


def _oldest(row: Mapping[Any, Any]) -> EventId | None:
    if not row["log_epoch"]:
        return None
    if row["oldest_epoch"] is None:
        return EventId(row["log_epoch"], row["log_seq"] + 1)
    whole = row["oldest_seq"] == 1 and row["oldest_epoch"] <= (row["first_epoch"] or row["oldest_epoch"])
    return None if whole else EventId(row["oldest_epoch"], row["oldest_seq"])
