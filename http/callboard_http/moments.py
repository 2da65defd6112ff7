"""A leg as one database snapshot has it: what a reader without a cursor is shown of the past.

In: a leg, or a user's thread.
Out: its session's messages, its newest epoch's events and where it stands, all of one moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.chunk import Chunk
from callboard_http.event_log import LegKey
from callboard_runtime.agui.run_events import agui_message
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventId
from callboard_runtime.domain.ids import session_uuid
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import OPEN_CALLS, PendingToolCall, RunStatus
from callboard_runtime.errors import Gone
from callboard_runtime.persistence.database import connect


@dataclass(frozen=True, slots=True)
class Moment:
    """A leg and its session; `shown` is what the leg's present epoch has committed, empty once the leg has ended."""

    key: LegKey
    thread_id: str
    client_run_id: str  # the one that the client used for this leg
    status: RunStatus  # of the run
    error_code: str | None
    error_message: str | None
    started: bool  # the leg has events
    end: EventId | None  # the leg's closing event
    log: EventId  # the session's last committed event
    messages: tuple[AguiEvent, ...]  # all that were not withdrawn, in order
    shared_state: Any
    open_calls: tuple[PendingToolCall, ...]
    shown: Chunk | None
    closing: AguiEvent | None  # the leg's closing event, unless it was pruned


_MESSAGES = """(SELECT jsonb_agg(jsonb_build_object(
               'message_id', m.message_id, 'role', m.role, 'content', m.content, 'name', m.name,
               'tool_calls', COALESCE(m.tool_calls, '[]'), 'tool_call_id', m.tool_call_id) ORDER BY m.seq)
          FROM messages m WHERE m.session_id = s.id AND NOT m.withdrawn) AS messages"""

_TRANSCRIPT = text(f"""
SELECT s.deleted_at IS NOT NULL AS deleted, {_MESSAGES}
  FROM sessions s WHERE s.id = :session_id AND s.user_id = :user_id
""")  # noqa: S608 - a constant of ours

_MOMENT = text(f"""
SELECT s.thread_id, s.log_epoch, s.log_seq, s.deleted_at IS NOT NULL AS deleted, s.state_snapshot,
       r.status, r.error_code, r.error_message, l.client_run_id, l.first_epoch, l.last_epoch, l.last_seq AS end_seq,
       {_MESSAGES},
       (SELECT string_agg(e.lines, E'\\n' ORDER BY e.first_seq)
          FROM event_segments e
         WHERE e.session_id = s.id AND e.epoch = s.log_epoch AND e.run_id = r.id AND e.leg = l.leg
           AND l.last_seq IS NULL) AS lines,
       (SELECT e.lines FROM event_segments e
         WHERE e.session_id = s.id AND e.epoch = l.last_epoch AND e.last_seq = l.last_seq) AS closing
  FROM sessions s
  JOIN runs r ON r.id = :run_id AND r.session_id = s.id
  JOIN run_legs l ON l.run_id = r.id AND l.leg = :leg
 WHERE s.id = :session_id
""")  # noqa: S608 - a constant of ours

# The active run's leg; while nobody is at work the leg whose end was the last; before any event the newest run's first.
_PRESENT = text("""
SELECT s.deleted_at IS NOT NULL AS deleted,
       COALESCE(CAST(s.state_snapshot #>> '{active,run_id}' AS uuid), ended.run_id, newest.id) AS run_id,
       CASE WHEN s.state_snapshot #>> '{active,run_id}' IS NULL THEN COALESCE(ended.leg, 1)
            ELSE COALESCE(CAST(s.state_snapshot #>> '{active,leg}' AS bigint), 1) END AS leg
  FROM sessions s
  LEFT JOIN LATERAL (SELECT e.run_id, e.leg FROM event_segments e WHERE e.session_id = s.id AND e.closing
                      ORDER BY e.epoch DESC, e.first_seq DESC LIMIT 1) ended ON true
  LEFT JOIN LATERAL (SELECT r.id FROM runs r WHERE r.session_id = s.id
                      ORDER BY r.created_at DESC LIMIT 1) newest ON true
 WHERE s.id = :session_id AND s.user_id = :user_id
""")


class Moments:
    """Reads moments; raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def of_leg(self, key: LegKey) -> Moment | None:
        """The leg now; None for an unknown one. Raises Gone when its session was deleted."""
        names = {"session_id": key.session_id, "run_id": key.run_id, "leg": key.leg}
        async with connect(self._engine) as connection:
            row = (await connection.execute(_MOMENT, names)).mappings().one_or_none()
        return _moment(key, row) if row else None

    async def messages(self, user_id: str, thread_id: str) -> tuple[AguiEvent, ...] | None:
        """The messages of the user's thread; None for an unknown one. Raises Gone when the session was deleted."""
        names = {"session_id": session_uuid(user_id, thread_id), "user_id": user_id}
        async with connect(self._engine) as connection:
            row = (await connection.execute(_TRANSCRIPT, names)).mappings().one_or_none()
        if row is None:
            return None
        _check_there(row)
        return _messages(row)

    async def present_leg(self, user_id: str, thread_id: str) -> LegKey | None:
        """The leg that somebody who opens the user's thread should see; None for an unknown or untouched thread.

        Raises Gone when the session was deleted.
        """
        session_id = session_uuid(user_id, thread_id)
        async with connect(self._engine) as connection:
            found = await connection.execute(_PRESENT, {"session_id": session_id, "user_id": user_id})
            row = found.mappings().one_or_none()
        if row is None:
            return None
        _check_there(row)
        run_id: UUID | None = row["run_id"]
        return LegKey(session_id, run_id, row["leg"]) if run_id else None


def _check_there(row: Mapping[Any, Any]) -> None:
    if row["deleted"]:
        raise Gone("this session was deleted")


def _messages(row: Mapping[Any, Any]) -> tuple[AguiEvent, ...]:
    return tuple(agui_message(NewMessage.model_validate(message)) for message in row["messages"] or ())


def _moment(key: LegKey, row: Mapping[Any, Any]) -> Moment:
    _check_there(row)
    state: Mapping[str, Any] = row["state_snapshot"] or {}
    calls = tuple(PendingToolCall.model_validate(call) for call in state.get("pending_tool_calls", ()))
    return Moment(
        key=key,
        thread_id=row["thread_id"],
        client_run_id=row["client_run_id"],
        status=RunStatus(row["status"]),
        error_code=row["error_code"],
        error_message=row["error_message"],
        started=row["first_epoch"] is not None,
        end=EventId(row["last_epoch"], row["end_seq"]) if row["end_seq"] is not None else None,
        log=EventId(row["log_epoch"], row["log_seq"]) if row["log_epoch"] else ORIGIN,
        messages=_messages(row),
        shared_state=state.get("shared_state"),
        open_calls=tuple(call for call in calls if call.status in OPEN_CALLS),
        shown=Chunk(row["log_epoch"], 1, row["lines"].encode()) if row["lines"] else None,
        closing=orjson.loads(row["closing"].rpartition("\n")[2]) if row["closing"] else None,
    )
