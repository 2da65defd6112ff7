"""What the front reads about runs: every query is scoped by the owner, or by an internal id derived from the owner."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.domain.ids import new_id, run_uuid, session_uuid
from callboard_runtime.domain.state_snapshot import RunStatus, StateSnapshot
from callboard_runtime.observe.health import schema_is_there
from callboard_runtime.persistence.claims import keep_command
from callboard_runtime.persistence.database import connect, transaction


@dataclass(frozen=True, slots=True)
class LegRecord:
    """One leg of a run; `end` is the id of its closing event."""

    leg: int
    client_run_id: str
    first_epoch: int | None
    end: EventId | None
    created_at: datetime
    ended_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run as its owner may see it, with its legs in order."""

    id: UUID
    user_id: str
    session_id: UUID
    thread_id: str
    client_run_id: str
    agent_id: str
    status: RunStatus
    error_code: str | None
    error_message: str | None
    calls: int
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: Decimal
    unpriced_calls: int
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    deleted: bool
    legs: tuple[LegRecord, ...]


_RUN = text("""
SELECT r.*, s.thread_id, s.deleted_at IS NOT NULL AS deleted
  FROM runs r JOIN sessions s ON s.id = r.session_id
 WHERE r.user_id = :user_id AND r.id = COALESCE(
       (SELECT id FROM runs WHERE id = :run_id AND user_id = :user_id),
       (SELECT run_id FROM run_legs WHERE user_id = :user_id AND client_run_id = :client_run_id
         ORDER BY created_at DESC LIMIT 1))
""")
_LEGS = text("SELECT * FROM run_legs WHERE run_id = :run_id ORDER BY leg")
_KNOWN_MESSAGES = text("SELECT message_id FROM messages WHERE session_id = :session_id AND message_id = ANY(:ids)")
_OWN_RESULTS = text("""
SELECT m.message_id FROM messages m
 WHERE m.session_id = :session_id AND m.message_id = ANY(:ids) AND m.role = 'tool'
   AND EXISTS (SELECT 1 FROM run_steps s WHERE s.run_id = m.run_id AND s.key = 'tool:' || m.tool_call_id)
""")
_SESSION_STATE = text(
    "SELECT state_snapshot, deleted_at IS NOT NULL AS deleted FROM sessions WHERE id = :id AND user_id = :user_id"
)
_QUEUED = text("""
SELECT user_id, count(*) FROM (SELECT user_id FROM runs WHERE status = 'queued' LIMIT :most) waiting GROUP BY user_id
""")
_AUDIT = text("""
INSERT INTO audit_log (id, actor, action, session_id, run_id, subject, details)
VALUES (:id, :actor, :action, :session_id, :run_id, :subject, '{}')
""")
_ACTORS = text("""
SELECT EXISTS (
    SELECT 1 FROM processes WHERE kind = 'actors' AND beat_at > now() - make_interval(secs => :silent_after)
)
""")


class Records:
    """Reads of runs and of what their sessions know; raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # A read is one statement, or two that need no common moment: a transaction would only be more round trips.
        self._reading = engine.execution_options(isolation_level="AUTOCOMMIT")
        self.schema_is_there = schema_is_there(self._reading)

    async def run(self, user_id: str, client_run_id: str) -> RunRecord | None:
        """The user's run of this id, or the one of which a leg has it."""
        names = {"user_id": user_id, "client_run_id": client_run_id, "run_id": run_uuid(user_id, client_run_id)}
        async with connect(self._reading) as connection:
            row = (await connection.execute(_RUN, names)).mappings().one_or_none()
            if row is None:
                return None
            legs = (await connection.execute(_LEGS, {"run_id": row["id"]})).mappings().all()
        return _run_record(row, legs)

    async def known_messages(self, session_id: UUID, ids: Iterable[str]) -> set[str]:
        """Which of these message ids the session has."""
        async with connect(self._reading) as connection:
            rows = await connection.execute(_KNOWN_MESSAGES, {"session_id": session_id, "ids": list(ids)})
            return set(rows.scalars())

    async def own_results(self, session_id: UUID, ids: Iterable[str]) -> set[str]:
        """Which of these messages are results of the backend's tools, that a client shows as part of its history."""
        async with connect(self._reading) as connection:
            return set(await connection.scalars(_OWN_RESULTS, {"session_id": session_id, "ids": list(ids)}))

    async def state(self, user_id: str, thread_id: str) -> StateSnapshot | None:
        """The actor's state of a session that exists."""
        names = {"id": session_uuid(user_id, thread_id), "user_id": user_id}
        async with connect(self._reading) as connection:
            row = (await connection.execute(_SESSION_STATE, names)).mappings().one_or_none()
        if row is None or row["deleted"] or row["state_snapshot"] is None:
            return None
        return StateSnapshot.load(row["state_snapshot"])

    async def queued_runs(self, most: int) -> dict[str, int]:
        """How many runs of each user wait; counted no further than `most` in all."""
        async with connect(self._reading) as connection:
            rows = (await connection.execute(_QUEUED, {"most": most})).all()
        return {row[0]: row[1] for row in rows}

    async def audit(
        self, actor: str, action: str, subject: str, session_id: UUID | None = None, run_id: UUID | None = None
    ) -> None:
        """Note who did what; committed when this returns."""
        row = {"id": new_id(), "actor": actor, "action": action, "subject": subject}
        async with transaction(self._engine) as connection:
            await connection.execute(_AUDIT, {**row, "session_id": session_id, "run_id": run_id})

    async def keep_command(self, session_id: UUID, body: bytes) -> UUID:
        """Keep a command that is too large for a message for its actor; committed when this returns the claim's id."""
        return await keep_command(self._engine, session_id, body)

    async def actors_live(self, silent_after: float) -> bool:
        """Whether an actor process was heard of within `silent_after` seconds; without one no run is accepted."""
        async with connect(self._reading) as connection:
            return bool(await connection.scalar(_ACTORS, {"silent_after": silent_after}))


def _run_record(row: Mapping[Any, Any], legs: Iterable[Mapping[Any, Any]]) -> RunRecord:
    named = {name: row[name] for name in RunRecord.__slots__ if name not in ("status", "legs")}
    return RunRecord(**named, status=RunStatus(row["status"]), legs=tuple(_leg_record(leg) for leg in legs))


def _leg_record(row: Mapping[Any, Any]) -> LegRecord:
    return LegRecord(
        leg=row["leg"],
        client_run_id=row["client_run_id"],
        first_epoch=row["first_epoch"],
        end=EventId(row["last_epoch"], row["last_seq"]) if row["last_seq"] is not None else None,
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )
