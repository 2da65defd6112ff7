"""Redis as something a run can do without: while it is away, nobody waits for it again and again."""

from __future__ import annotations

import logging
from time import monotonic
from uuid import UUID

from redis.exceptions import RedisError

from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.stream.tail import TailResult, TailStore

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 5.0  # seconds without a try after a failure


class GuardedTail:
    """A tail that answers None instead of raising; shared by all runs of a process."""

    def __init__(self, store: TailStore) -> None:
        self._store = store
        self._failures = 0
        self._not_before = 0.0

    async def append(self, session_id: UUID, batch: EventBatch, *, committed: int, create: bool) -> TailResult | None:
        """Like `TailStore.append`; None while Redis is away."""
        begun = monotonic()
        if begun < self._not_before:
            return None
        try:
            result = await self._store.append(session_id, batch, committed=committed, create=create)
        except (RedisError, OSError) as error:
            if begun >= self._not_before:  # what was under way beside the last failure is the same one
                self._note_failure(error)
            return None
        self._note_success()
        return result

    async def close(self) -> None:
        await self._store.close()

    def _note_failure(self, error: Exception) -> None:
        if not self._failures:
            text = str(error) or type(error).__name__
            logger.warning("Redis is away, runs go on without it: %s", text, extra={"action": "redis_away"})
        self._failures += 1
        self._not_before = monotonic() + min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))

    def _note_success(self) -> None:
        if self._failures:
            logger.info("Redis is back", extra={"action": "redis_back"})
        self._failures, self._not_before = 0, 0.0
