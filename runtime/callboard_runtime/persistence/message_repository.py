"""Messages of a session, in the order of their seq: reading them, and adding them where no actor does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import func, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from callboard_runtime.domain.ids import new_id
from callboard_runtime.errors import Conflict, InvalidInput
from callboard_runtime.persistence.session_repository import as_uuid, lock_session, note_message
from callboard_runtime.persistence.tables import MessageRow

ROLES = frozenset({"user", "assistant", "system", "developer", "tool", "reasoning", "activity"})


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as it is kept; its fields can also be read by name, `message["role"]`."""

    seq: int
    message_id: str
    role: str
    content: Any
    run_id: UUID | None
    tool_calls: Any
    tool_call_id: str | None
    name: str | None
    withdrawn: bool
    created_at: datetime

    def __getitem__(self, field: str) -> Any:
        if field not in self.__slots__:
            raise KeyError(field)
        return getattr(self, field)


_COLUMNS = [getattr(MessageRow, name) for name in StoredMessage.__slots__]


async def append_message(
    conn: AsyncConnection | AsyncSession,
    session_id: UUID | str,
    role: str,
    content: Any = None,
    message_id: str | None = None,
    *,
    run_id: UUID | str | None = None,
    tool_calls: Sequence[Any] | None = None,
    tool_call_id: str | None = None,
    name: str | None = None,
) -> int:
    """Add a message to a session and return its seq; meant to be called by keyword, inside the caller's transaction.

    seq counts 1, 2, 3… without gaps also under concurrency: the session's row stays locked until the transaction ends,
    so the call order of one transaction, and the commit order of several, is the order of the messages. The session's
    `message_count` and `last_message_at` follow. The same message_id again changes nothing and returns the first seq.
    A running session's actor notices the change and reads its state anew.

    Raises NotFound for an unknown session, Gone for a deleted one, Conflict when message_id has another content,
    InvalidInput for an unknown role or a malformed id.
    """
    if role not in ROLES:
        raise InvalidInput(f"role: {role!r} is none of {', '.join(sorted(ROLES))}")
    session = as_uuid(session_id, "session_id")
    last = await lock_session(conn, session)
    if message_id is not None and (known := await _find(conn, session, message_id)) is not None:
        return _same(known, role, content)
    values = {
        "session_id": session,
        "seq": last + 1,
        "message_id": message_id or str(new_id()),
        "run_id": None if run_id is None else as_uuid(run_id, "run_id"),
        "role": role,
        "content": content,
        "tool_calls": list(tool_calls) if tool_calls else None,
        "tool_call_id": tool_call_id,
        "name": name,
        "created_at": func.clock_timestamp(),  # now() is the transaction's start, which may precede an earlier seq's
    }
    await conn.execute(insert(MessageRow).values(values))
    await note_message(conn, session, last + 1)
    return last + 1


async def list_messages(
    conn: AsyncConnection | AsyncSession,
    session_id: UUID | str,
    *,
    after_seq: int = 0,
    limit: int = 1000,
    include_withdrawn: bool = False,
) -> list[StoredMessage]:
    """The messages with a seq above `after_seq`, at most `limit`, in order of seq; none for an unknown session."""
    query = (
        select(*_COLUMNS)
        .where(MessageRow.session_id == as_uuid(session_id, "session_id"), MessageRow.seq > after_seq)
        .order_by(MessageRow.seq)
        .limit(limit)
    )
    if not include_withdrawn:
        query = query.where(MessageRow.withdrawn.is_(False))
    return [StoredMessage(*row) for row in await conn.execute(query)]


async def _find(conn: AsyncConnection | AsyncSession, session: UUID, message_id: str) -> StoredMessage | None:
    query = select(*_COLUMNS).where(MessageRow.session_id == session, MessageRow.message_id == message_id)
    row = (await conn.execute(query)).first()
    return StoredMessage(*row) if row else None


def _same(known: StoredMessage, role: str, content: Any) -> int:
    if (known.role, known.content) != (role, content):
        raise Conflict(f"message_id {known.message_id!r} is taken by another message of this session; take a new one")
    return known.seq
