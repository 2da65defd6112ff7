"""Watches the dead-letter queue: what lies there is a bug or a malformed message, and somebody should look.

Nothing consumes that queue. The mailboxes reject what cannot be decoded; the broker moves what was delivered too often.
"""

from __future__ import annotations

import asyncio
import logging

from aio_pika import RobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS

from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import ConnectionGone, gone_when_broken, is_real_cancellation

logger = logging.getLogger(__name__)

LOOK_EVERY = 30.0  # seconds
TIMEOUT = 5.0  # seconds


class DeadLetterWatch:
    """Warns when messages were added to the dead-letter queue; `count` is the last known number."""

    def __init__(self, connection: RobustConnection) -> None:
        self._connection = connection
        self.count = 0

    async def run(self) -> None:
        """Look every half minute, until cancelled."""
        while True:
            await self.look()
            if is_real_cancellation():
                raise asyncio.CancelledError
            await asyncio.sleep(LOOK_EVERY)

    async def look(self) -> None:
        """Count once; while the broker is away nothing is known and nothing said."""
        if not self._connection.connected.is_set():
            return
        try:
            async with asyncio.timeout(TIMEOUT), gone_when_broken():
                found = await self._messages()
        except (*CONNECTION_EXCEPTIONS, ConnectionGone, TimeoutError) as error:
            logger.debug("the dead-letter queue cannot be counted: %s", error)
            return
        if found > self.count:
            message = "%d messages in queue %s (%d more than before): each carries its reason in header x-death"
            logger.warning(message, found, topology.DEAD_QUEUE, found - self.count, extra={"action": "dead_letters"})
        self.count = found

    async def _messages(self) -> int:
        async with await self._connection.channel(publisher_confirms=False) as channel:
            queue = await channel.declare_queue(topology.DEAD_QUEUE, passive=True)
            return queue.declaration_result.message_count or 0
