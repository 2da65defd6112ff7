"""Tells integrations what was committed: at least once, each copy with the same message id.

In:  outbox items of kind `integration`
Out: persistent messages on the topic exchange callboard.events.v1, confirmed before their rows go
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Protocol
from uuid import UUID

import aio_pika
import orjson

from callboard_actors.writes import OutboxItem
from callboard_runtime.broker import topology
from callboard_runtime.errors import Unavailable

logger = logging.getLogger(__name__)

AT_ONCE = 256  # messages published before the first one's confirmation


class Publisher(Protocol):
    async def confirmed(
        self, exchange: str, routing_key: str, message: aio_pika.Message, *, mandatory: bool
    ) -> None: ...


class Announcer:
    """Publishes in the order given, many at once; what the broker did not take is left for the next poll."""

    def __init__(self, publisher: Publisher, done: Callable[[OutboxItem], None]) -> None:
        self._publisher, self._done = publisher, done
        self._waiting: deque[OutboxItem] = deque()
        self._ids: set[UUID] = set()  # waiting or under way
        self._task: asyncio.Task[None] | None = None

    def add(self, item: OutboxItem) -> None:
        """Publish an item soon; one that is there already is not added again."""
        if item.id in self._ids:
            return
        self._ids.add(item.id)
        self._waiting.append(item)
        if self._task is None:
            self._task = asyncio.create_task(self._drain(), name="announcer")

    async def settle(self) -> None:
        """Wait until everything added so far was published or given up."""
        while self._task is not None:
            await asyncio.wait([self._task])

    async def _drain(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), AT_ONCE))]
                await self._publish(group)
        finally:
            self._task = None

    async def _publish(self, group: list[OutboxItem]) -> None:
        results = await asyncio.gather(*map(self._tell, group), return_exceptions=True)
        failures = [result for result in results if isinstance(result, BaseException)]
        self._ids.difference_update(item.id for item in group)
        if not failures:
            return
        away = all(isinstance(failure, Unavailable) for failure in failures)
        logger.log(
            logging.INFO if away else logging.ERROR,
            "%d announcements wait: %r",
            len(failures),
            failures[0],
            exc_info=None if away else failures[0],
            extra={"action": "announcements_wait"},
        )

    async def _tell(self, item: OutboxItem) -> None:
        # Nobody there is no error: the exchange tells whoever subscribed.
        await self._publisher.confirmed(
            topology.EVENTS_EXCHANGE, routing_key(item), announcement_message(item), mandatory=False
        )
        self._done(item)


def routing_key(item: OutboxItem) -> str:
    """`session.<thread id>.run.<run id>.<name>`, each id as one word."""
    body = item.payload["body"]
    return topology.run_event_key(body["session_id"], body["run_id"] or "", item.payload["name"])


def announcement_message(item: OutboxItem) -> aio_pika.Message:
    """The message, the same each time: body, id, type and the exact ids as headers."""
    body = item.payload["body"]
    return aio_pika.Message(
        orjson.dumps(body),
        content_type="application/json",
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        message_id=body["id"],
        type=body["type"],
        timestamp=datetime.fromisoformat(body["at"]),
        headers={name: body[name] for name in ("session_id", "run_id", "user_id") if body[name] is not None},
    )
