"""Everybody's sessions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.ids import partition_of
from callboard_runtime.domain.state_snapshot import SessionStatus, StateSnapshot
from callboard_runtime.errors import NotFound
from callboard_runtime.inspection.database import Row, question
from callboard_runtime.inspection.paging import NEWEST, Position, check_count, page_of
from callboard_runtime.inspection.views import SessionDetail, SessionLine, SessionList, Usage

_COLUMNS = """id, thread_id, user_id, status, message_count, input_tokens, output_tokens, total_tokens, cost,
       unpriced_calls, created_at, updated_at"""
_BEYOND = "(updated_at, id) < (:at, :id) ORDER BY updated_at DESC, id DESC LIMIT :count"
_OF_USER = text(f"""
SELECT {_COLUMNS} FROM sessions WHERE user_id = :user_id AND status = ANY(:statuses) AND {_BEYOND}
""")  # noqa: S608
# One index scan per status, each of which ends after a page.
_OF_ALL = text(f"""
SELECT found.* FROM unnest(CAST(:statuses AS text[])) wanted(name) CROSS JOIN LATERAL (
       SELECT {_COLUMNS} FROM sessions WHERE status = wanted.name AND {_BEYOND}) found
 ORDER BY updated_at DESC, id DESC LIMIT :count
""")  # noqa: S608
_ONE = text(f"""
SELECT {_COLUMNS}, title, log_epoch, log_seq, state_snapshot, deleted_at,
       (SELECT owner FROM partitions WHERE partition = :partition) AS partition_owner
  FROM sessions WHERE id = :id
""")  # noqa: S608


@dataclass(frozen=True, slots=True)
class SessionFilter:
    """Which sessions; nothing named means all but the deleted ones."""

    user_id: str | None = None
    statuses: Sequence[SessionStatus] = tuple(status for status in SessionStatus if status != SessionStatus.DELETED)


async def list_sessions(engine: AsyncEngine, wanted: SessionFilter, count: int, after: str | None) -> SessionList:
    """The one that changed last first. Raises InvalidInput for a wrong `after` or `count`."""
    start = Position.parse(after) if after is not None else NEWEST
    names = {"statuses": [str(status) for status in wanted.statuses], "at": start.at, "id": start.id}
    statement = _OF_USER if wanted.user_id else _OF_ALL
    of_user = {"user_id": wanted.user_id} if wanted.user_id else {}
    async with question(engine) as ask:
        rows = await ask.rows(statement, **names, **of_user, count=check_count(count) + 1)
    kept, following = page_of(rows, count, "updated_at")
    return SessionList(sessions=tuple(map(_line, kept)), next=following)


async def get_session(engine: AsyncEngine, session_id: UUID) -> SessionDetail:
    """One session, a deleted one included; raises NotFound."""
    partition = partition_of(session_id)
    async with question(engine) as ask:
        row = await ask.row(_ONE, id=session_id, partition=partition)
    if row is None:
        raise NotFound(f"there is no session {session_id}")
    state = StateSnapshot.load(row["state_snapshot"] or {})
    return SessionDetail(
        session=_line(row),
        title=row["title"],
        last_event_id=f"{row['log_epoch']}-{row['log_seq']}" if row["log_epoch"] else None,
        epoch=state.epoch,
        partition=partition,
        partition_owner=row["partition_owner"],
        active_run=state.active.run_id if state.active else None,
        queued_runs=tuple(run.run_id for run in state.queue),
        deleted_at=row["deleted_at"],
    )


def _line(row: Row) -> SessionLine:
    return SessionLine(
        id=row["id"],
        session_id=row["thread_id"],
        user_id=row["user_id"],
        status=SessionStatus(row["status"]),
        message_count=row["message_count"],
        usage=usage(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def usage(row: Row) -> Usage:
    """The totals that sessions and runs have."""
    return Usage.model_validate({name: row[name] for name in Usage.model_fields})
