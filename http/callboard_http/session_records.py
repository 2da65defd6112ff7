"""What the front reads about sessions, a page at a time; pages are keyed by position, never by number."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.chunk import Chunk
from callboard_http.event_log import PAGE_BYTES
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.errors import InvalidInput
from callboard_runtime.persistence.database import connect

Row = Mapping[Any, Any]

MAX_KEY = 400  # characters of one part of a position
SEGMENTS = 32  # segments read for one page of events


@dataclass(frozen=True, slots=True)
class Page:
    """Rows, and the `after` that gives the next ones; None at the end."""

    rows: tuple[Row, ...]
    next: str | None


_SESSION = "id, thread_id, title, status, log_epoch, log_seq, message_count, last_message_at, input_tokens, \
output_tokens, total_tokens, cost, unpriced_calls, created_at, updated_at, deleted_at"
_ONE = text(f"SELECT {_SESSION} FROM sessions WHERE user_id = :user_id AND thread_id = :thread_id")  # noqa: S608
_MANY = text(f"""
SELECT {_SESSION} FROM sessions
 WHERE user_id = :user_id AND deleted_at IS NULL AND (updated_at, id) < (:updated_at, :id)
 ORDER BY updated_at DESC, id DESC LIMIT :count
""")  # noqa: S608
_MESSAGES = text("""
SELECT m.seq, m.message_id, m.role, m.content, m.tool_calls, m.tool_call_id, m.name, m.withdrawn, m.created_at,
       r.client_run_id AS run_id
  FROM messages m LEFT JOIN runs r ON r.id = m.run_id
 WHERE m.session_id = :session_id AND m.seq > :after ORDER BY m.seq LIMIT :count
""")
_EVENTS = text(f"""
SELECT epoch, first_seq, closing, lines FROM (
       SELECT e.*, sum(octet_length(e.lines)) OVER (ORDER BY e.epoch, e.first_seq) - octet_length(e.lines) AS before
         FROM (SELECT epoch, first_seq, closing, lines FROM event_segments
                WHERE session_id = :session_id AND epoch >= :epoch AND (epoch, last_seq) > (:epoch, :seq)
                ORDER BY epoch, first_seq LIMIT {SEGMENTS}) e) w
 WHERE before < {PAGE_BYTES} ORDER BY epoch, first_seq
""")  # noqa: S608
_CALLS = text("""
SELECT c.key, c.epoch, c.stage, c.provider, c.model, c.status, c.input_tokens, c.output_tokens, c.cached_tokens,
       c.reasoning_tokens, c.cost, c.estimated, c.first_token_ms, c.latency_ms, c.begun_at, r.client_run_id AS run_id,
       c.run_id AS internal_run_id
  FROM llm_calls c JOIN runs r ON r.id = c.run_id
 WHERE c.session_id = :session_id AND (c.begun_at, c.run_id, c.key, c.epoch) > (:begun_at, :run_id, :key, :epoch)
 ORDER BY c.begun_at, c.run_id, c.key, c.epoch LIMIT :count
""")

_NEWEST, _OLDEST = (
    datetime.fromisoformat("9999-12-31T00:00:00+00:00"),
    datetime.fromisoformat("0001-01-02T00:00:00+00:00"),
)
_LOWEST, _HIGHEST = UUID(int=0), UUID(int=2**128 - 1)


class SessionRecords:
    """Reads of sessions and what is in them; raises Unavailable while the database is away."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def session(self, user_id: str, thread_id: str) -> Row | None:
        """The user's session, a deleted one included."""
        rows = await self._rows(_ONE, user_id=user_id, thread_id=thread_id)
        return rows[0] if rows else None

    async def sessions(self, user_id: str, after: str | None, count: int) -> Page:
        """The user's sessions, the one that changed last first."""
        updated_at, last_id = _read_key(after, _NEWEST, _HIGHEST)
        rows = await self._rows(_MANY, user_id=user_id, updated_at=updated_at, id=last_id, count=count + 1)
        return _page(rows, count, lambda row: (row["updated_at"], row["id"]))

    async def messages(self, session_id: UUID, after: int, count: int) -> Page:
        """Messages in order, the withdrawn ones marked."""
        rows = await self._rows(_MESSAGES, session_id=session_id, after=after, count=count + 1)
        kept = rows[:count]
        return Page(tuple(kept), str(kept[-1]["seq"]) if len(rows) > count else None)

    async def events(self, session_id: UUID, after: EventId) -> list[Chunk]:
        """Committed events after a position, at most `SEGMENTS` segments, and no more of them behind `PAGE_BYTES`."""
        rows = await self._rows(_EVENTS, session_id=session_id, epoch=after.epoch, seq=after.seq)
        chunks = [Chunk(r["epoch"], r["first_seq"], r["lines"].encode(), r["closing"]) for r in rows]
        return [chunk.after(after.seq) if chunk.epoch == after.epoch else chunk for chunk in chunks]

    async def calls(self, session_id: UUID, after: str | None, count: int) -> Page:
        """The session's provider requests, oldest first."""
        key = _read_key(after, _OLDEST, _LOWEST, "", 0)
        names = dict(zip(("begun_at", "run_id", "key", "epoch"), key, strict=True))
        rows = await self._rows(_CALLS, session_id=session_id, count=count + 1, **names)
        return _page(rows, count, lambda row: (row["begun_at"], row["internal_run_id"], row["key"], row["epoch"]))

    async def _rows(self, statement: Any, **parameters: Any) -> list[Row]:
        async with connect(self._engine) as connection:
            return list((await connection.execute(statement, parameters)).mappings())


def _page(rows: list[Row], count: int, key_of: Callable[[Row], tuple[Any, ...]]) -> Page:
    kept = rows[:count]
    following = (
        base64.urlsafe_b64encode(orjson.dumps(key_of(kept[-1]), default=str)).decode() if len(rows) > count else None
    )
    return Page(tuple(kept), following)


def _read_key(after: str | None, *first: Any) -> tuple[Any, ...]:
    """The key that `after` stands for, else `first`; raises InvalidInput for one that we did not give."""
    if after is None:
        return first
    try:
        parts = orjson.loads(base64.urlsafe_b64decode(after))
        return tuple(_like(example, part) for example, part in zip(first, parts, strict=True))
    except (ValueError, TypeError, AttributeError, OverflowError, binascii.Error):
        raise InvalidInput("after: not a position that an earlier page gave as `next`") from None


def _like(example: Any, value: Any) -> Any:
    """`value` as the type of `example`; raises ValueError for what the database could not take."""
    if isinstance(example, datetime):
        return datetime.fromisoformat(value).astimezone(UTC)
    if isinstance(example, UUID):
        return UUID(value)
    if type(value) is not type(example) or (isinstance(value, int) and not 0 <= value < 2**53):
        raise ValueError("not one of ours")
    if "\x00" in str(value) or len(str(value)) > MAX_KEY:
        raise ValueError("not one of ours")
    return value
