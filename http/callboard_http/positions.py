"""Where the logs of many sessions stand, asked by many readers at once and answered by one query."""

from __future__ import annotations

import asyncio
from uuid import UUID

from callboard_http.event_log import EventLog
from callboard_runtime.domain.event_batch import EventId

GATHER = 0.02  # seconds in which questions are collected


class Positions:
    """Batches questions: a thousand idle readers cost a handful of queries per heartbeat."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._asked: set[UUID] = set()
        self._answer: asyncio.Task[dict[UUID, EventId]] | None = None

    async def of(self, session_id: UUID) -> EventId | None:
        """The session's last committed event, read after this call; None if it is gone. Raises Unavailable."""
        self._asked.add(session_id)
        if self._answer is None:
            self._answer = asyncio.create_task(self._read())
            self._answer.add_done_callback(_noted)
        return (await asyncio.shield(self._answer)).get(session_id)

    async def _read(self) -> dict[UUID, EventId]:
        await asyncio.sleep(GATHER)
        asked, self._asked, self._answer = self._asked, set(), None
        return await self._log.positions(asked)


def _noted(task: asyncio.Task[dict[UUID, EventId]]) -> None:
    """An outage that everybody who asked left before is nobody's concern."""
    if not task.cancelled():
        task.exception()
