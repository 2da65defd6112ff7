"""The tail as readers who catch up see it: many of them ask at once, few exchanges with Redis answer.

In:  sessions, and the events after which to read.
Out: what was sent after them, a page of it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from uuid import UUID

from redis.exceptions import ConnectionError as ConnectionGone
from redis.exceptions import TimeoutError as TookTooLong

from callboard_http.gathered import Gathered
from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.stream.tail import TailStore

MOST_LINES = 512  # of one page
READERS_AT_ONCE = 32  # pages read in one exchange
EXCHANGES = 4  # under way at once
PAUSE = 0.5  # seconds without a try after one that Redis did not answer: those who wait in line hear so at once

Question = tuple[UUID, EventId]


class TailReads:
    """Reads of one process's readers; raises what Redis raises, and Unavailable when too many ask at once."""

    def __init__(self, tail: TailStore) -> None:
        self._tail = tail
        self._again = 0.0
        self._pages = Gathered(self._read, most=READERS_AT_ONCE, at_once=EXCHANGES)

    async def read(self, session_id: UUID, after: EventId, epoch: int) -> EventBatch | None:
        """All lines of `epoch` after a position, as `TailStore.read` has them."""
        return await self._tail.read(session_id, after, epoch)

    async def after(self, session_id: UUID, position: EventId) -> EventBatch | None:
        """A page of the position's epoch after it, up to the first hole; its first line may itself lie behind one."""
        return await self._pages.of((session_id, position))

    async def _read(self, asked: Sequence[Question]) -> Mapping[Question, EventBatch]:
        if time.monotonic() < self._again:
            raise ConnectionGone("Redis did not answer a moment ago")
        try:
            found = await self._tail.read_many(asked, MOST_LINES)
        except (ConnectionGone, TookTooLong, OSError):
            self._again = time.monotonic() + PAUSE
            raise
        return {question: batch for question, batch in zip(asked, found, strict=True) if batch is not None}
