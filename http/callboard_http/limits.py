"""How much one user, and all users together, may ask for; always refused before anything is accepted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping

from redis.asyncio import Redis
from redis.exceptions import RedisError

from callboard_http.records import Records
from callboard_runtime.errors import LimitExceeded, Unavailable
from callboard_runtime.settings import HttpSettings

logger = logging.getLogger(__name__)

WINDOW = 60  # seconds
QUEUE_LOOK = 1.0  # seconds a count of waiting runs is good for
BUSY_RETRY = 5  # seconds that a client is told to wait when too many runs are queued


class Limits:
    """Runs per user and minute, counted in Redis for all fronts together, and waiting runs, counted in the database.

    The database is asked once a second, so that within a second a few more are let in than the limit says.
    """

    def __init__(self, settings: HttpSettings, records: Records, redis: Redis | None, prefix: str) -> None:
        self._settings, self._records = settings, records
        self._redis, self._prefix = redis, prefix
        self._local: Counter[str] = Counter()
        self._local_window = 0
        self._queued: Mapping[str, int] = {}  # waiting runs by user
        self._counted_at = float("-inf")
        self._counting = asyncio.Lock()

    async def admit_run(self, user_id: str) -> None:
        """Both of the following: what a request is to pass before anything of it is accepted."""
        await self.count_run(user_id)
        await self.check_backlog(user_id)

    async def count_run(self, user_id: str) -> None:
        """Count a run of the user; raises LimitExceeded with the seconds until the window ends."""
        now = time.time()
        window = int(now // WINDOW)
        if await self._count(user_id, window) > self._settings.runs_per_minute:
            wait = max(1, int((window + 1) * WINDOW - now))
            limit = self._settings.runs_per_minute
            raise LimitExceeded(f"at most {limit} runs may be started per minute", retry_after=wait)

    async def check_backlog(self, user_id: str) -> None:
        """Raises LimitExceeded when too many runs of the user wait, Unavailable when too many of all users do."""
        waiting, most = await self._waiting(), self._settings.max_queued_runs_per_user
        if waiting.get(user_id, 0) >= most:
            message = f"{most} of your runs wait for a worker; nothing was accepted"
            raise LimitExceeded(message, retry_after=BUSY_RETRY)
        if sum(waiting.values()) >= self._settings.max_queued_runs:
            raise Unavailable("too many runs wait for a worker; nothing was accepted", retry_after=BUSY_RETRY)

    async def ping(self) -> None:
        """Raises unless Redis answers."""
        if self._redis is None:
            raise Unavailable("Redis is not configured")
        await self._redis.get(f"{self._prefix}:ping")

    async def _count(self, user_id: str, window: int) -> int:
        """How many runs the user has started in this window, this one included; without Redis: on this front."""
        if self._redis is None:
            return self._count_here(user_id, window)
        key = f"{self._prefix}:rate:{window}:{user_id}"
        try:
            count = int(await self._redis.incr(key))
            if count == 1:
                await self._redis.expire(key, 2 * WINDOW)
            return count
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("rate counted locally: %r", error, extra={"action": "rate_counted_locally"})
            return self._count_here(user_id, window)

    def _count_here(self, user_id: str, window: int) -> int:
        if window != self._local_window:
            self._local_window = window
            self._local.clear()
        self._local[user_id] += 1
        return self._local[user_id]

    async def _waiting(self) -> Mapping[str, int]:
        async with self._counting:
            if time.monotonic() - self._counted_at > QUEUE_LOOK:
                self._queued = await self._records.queued_runs(self._settings.max_queued_runs)
                self._counted_at = time.monotonic()
        return self._queued
