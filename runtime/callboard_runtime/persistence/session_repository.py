"""Sessions for programs that embed Callboard, for imports and reports; in a running system only actors write them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import func, literal, select, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from callboard_runtime.domain.ids import session_uuid
from callboard_runtime.domain.usage import CallUsage, UsageTotals
from callboard_runtime.errors import Gone, InvalidInput, NotFound
from callboard_runtime.persistence.tables import MessageRow, SessionRow


@dataclass(frozen=True, slots=True)
class SessionAggregate:
    """What a session adds up to; `message_count` is the highest seq, withdrawn messages included."""

    message_count: int
    last_message_at: datetime | None
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: Decimal  # US dollars, of the calls whose price is known
    unpriced_calls: int


_AGGREGATE = [getattr(SessionRow, name) for name in SessionAggregate.__slots__]


async def ensure_session(
    conn: AsyncConnection | AsyncSession, *, user_id: str, thread_id: str, title: str | None = None
) -> UUID:
    """The id of a user's thread, whose row is there afterwards; the same names always give the same id."""
    session_id = session_uuid(user_id, thread_id)
    row = {"id": session_id, "user_id": user_id, "thread_id": thread_id, "title": title}
    await conn.execute(insert(SessionRow).values(row).on_conflict_do_nothing())
    return session_id


async def get_session_aggregate(conn: AsyncConnection | AsyncSession, session_id: UUID | str) -> SessionAggregate:
    """The session's totals as they are stored; raises NotFound."""
    session = as_uuid(session_id, "session_id")
    row = (await conn.execute(select(*_AGGREGATE).where(SessionRow.id == session))).first()
    if row is None:
        raise NotFound(f"there is no session {session}")
    return SessionAggregate(*row)


async def update_session_aggregate(
    conn: AsyncConnection | AsyncSession,
    session_id: UUID | str,
    *,
    usage: CallUsage | UsageTotals | None = None,
    input_tokens: int = 0,
    output_tokens: int = 0,
    cost: Decimal | str | None = None,
    unpriced_calls: int = 0,
    title: str | None = None,
) -> SessionAggregate:
    """Bring a session's totals up to date and return them; part of the caller's transaction.

    `message_count` and `last_message_at` are counted anew from the messages, so repeating the call is harmless for
    them. Tokens and cost, given as `usage` or by themselves, are added to the totals; `total_tokens` is always input
    plus output. A call whose `cost` is None counts as unpriced only when it comes as `usage`.
    Raises NotFound for an unknown session, Gone for a deleted one, InvalidInput for a malformed id.
    """
    session = as_uuid(session_id, "session_id")
    await lock_session(conn, session)
    given = _totals(usage)
    tokens_in, tokens_out = given.input_tokens + input_tokens, given.output_tokens + output_tokens
    last_seq, last_at = await _last_message(conn, session)
    values: dict[Any, Any] = {
        SessionRow.message_count: last_seq,
        SessionRow.last_message_at: last_at,
        SessionRow.input_tokens: SessionRow.input_tokens + tokens_in,
        SessionRow.output_tokens: SessionRow.output_tokens + tokens_out,
        SessionRow.total_tokens: SessionRow.total_tokens + tokens_in + tokens_out,
        SessionRow.cost: SessionRow.cost + given.cost + Decimal(cost or 0),
        SessionRow.unpriced_calls: SessionRow.unpriced_calls + given.unpriced_calls + unpriced_calls,
        SessionRow.updated_at: func.clock_timestamp(),
    }
    if title is not None:
        values[SessionRow.title] = title
    await conn.execute(update(SessionRow).where(SessionRow.id == session).values(values))
    return await get_session_aggregate(conn, session)


def _totals(usage: CallUsage | UsageTotals | None) -> UsageTotals:
    if isinstance(usage, CallUsage):
        return UsageTotals().plus(usage)
    return usage or UsageTotals()


async def _last_message(conn: AsyncConnection | AsyncSession, session: UUID) -> tuple[int, datetime | None]:
    query = select(MessageRow.seq, MessageRow.created_at).where(MessageRow.session_id == session)
    row = (await conn.execute(query.order_by(MessageRow.seq.desc()).limit(1))).first()
    return (row.seq, row.created_at) if row else (0, None)


async def lock_session(conn: AsyncConnection | AsyncSession, session: UUID) -> int:
    """Hold the session's row until the transaction ends and return its highest seq; raises NotFound or Gone."""
    query = select(SessionRow.message_count, SessionRow.deleted_at).where(SessionRow.id == session).with_for_update()
    row = (await conn.execute(query)).first()
    if row is None:
        raise NotFound(f"there is no session {session}; make it with ensure_session")
    if row.deleted_at is not None:
        raise Gone(f"session {session} was deleted")
    return row.message_count


async def note_message(conn: AsyncConnection | AsyncSession, session: UUID, seq: int) -> None:
    """Count the message `seq` in; the actor's cached state becomes stale, and the stored one knows the new count."""
    counted = SessionRow.state_snapshot.op("||")(literal({"message_count": seq}, JSONB))  # stays null where it is null
    await conn.execute(
        update(SessionRow)
        .where(SessionRow.id == session)
        .values(
            message_count=seq,
            last_message_at=func.clock_timestamp(),
            updated_at=func.clock_timestamp(),
            state_version=SessionRow.state_version + 1,
            state_snapshot=counted,
        )
    )


def as_uuid(value: UUID | str, name: str) -> UUID:
    """An internal id; raises InvalidInput for text that is not a UUID."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value)
    except (ValueError, TypeError, AttributeError):
        raise InvalidInput(f"{name}: must be the internal UUID; ids.session_uuid and ids.run_uuid derive it") from None
