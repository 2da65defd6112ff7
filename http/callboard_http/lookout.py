"""Keeps operators' questions from weighing on users: few at a time, and one glance at the system for all who ask."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from callboard_runtime.inspection.views import Status

AT_ONCE = 2  # questions of operators, in one front
FRESH = 2.0  # seconds that a glance is good for


class Lookout:
    """What the operators of one front share."""

    def __init__(self) -> None:
        self.turn = asyncio.Semaphore(AT_ONCE)
        self.errand = asyncio.Lock()  # one look into the broker at a time: what one has on loan, another does not see
        self._glance: Status | None = None
        self._taken = 0.0

    async def glance(self, take: Callable[[], Awaitable[Status]]) -> Status:
        """The system's status, taken anew when the last one is older than `FRESH` seconds."""
        async with self.errand:
            if self._glance is None or time.monotonic() - self._taken > FRESH:
                self._glance = await take()
                self._taken = time.monotonic()
            return self._glance


LOOKOUT: web.AppKey[Lookout] = web.AppKey("lookout", Lookout)
