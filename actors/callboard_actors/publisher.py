"""What this process publishes outside of lanes: replies to callers, wake-ups for workers, control messages.

One connection, apart from the consuming one: a broker that throttles publishers must not stop acknowledgements.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, Self

import aio_pika
import aiormq.abc
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import DeliveryError
from aiormq.abc import ChannelFrame

from callboard_runtime.broker.connection import BrokerLink, ConnectionGone, Line, open_channel
from callboard_runtime.broker.frames import reply
from callboard_runtime.broker.topology_setup import declare
from callboard_runtime.errors import Unavailable
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

TRANSIENT = 1
CONFIRM_TIMEOUT = 5.0  # seconds
MOST_REPLIES = 10_000  # that wait for a connection, or for one that takes nothing
WRITTEN = 256  # replies that are kept for a moment, in case that their connection breaks
TOGETHER = 64  # replies in one write
FRAME = 64 * 1024  # bytes of one frame, of which eight are not the body's; every broker takes that much


class _ActorLine(Line):
    """A channel with confirms, and one without for replies."""

    def __init__(
        self, confirmed: aiormq.abc.AbstractChannel, replies: aiormq.abc.AbstractChannel, writer: ReplyWriter
    ) -> None:
        super().__init__(confirmed)
        self._both, self._writer = (confirmed, replies), writer
        writer.use(replies)

    @property
    def channels(self) -> tuple[aiormq.abc.AbstractChannel, ...]:
        return self._both

    def lost(self) -> None:
        self._writer.lost()


class ReplyWriter:
    """Writes replies on one channel after the other: those of one turn of the event loop travel together.

    Nobody waits for them. Without a channel they wait for the next one, which also gets the last ones written to the
    former: they may have died with it, and a caller takes no second reply. What is too much is dropped, oldest first.
    """

    def __init__(self) -> None:
        self._channel: Any = None  # its write_queue and number are missing from the base class
        self._waiting: deque[tuple[str, str, bytes]] = deque(maxlen=MOST_REPLIES)
        self._written: deque[tuple[str, str, bytes]] = deque(maxlen=WRITTEN)
        self._task: asyncio.Task[None] | None = None

    def add(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        """Have a reply written soon."""
        self._waiting.append((reply_to, correlation_id, body))
        self._start()

    def use(self, channel: aiormq.abc.AbstractChannel) -> None:
        """Write on this channel from now on."""
        self.lost()
        self._channel = channel
        self._start()

    def lost(self) -> None:
        """Keep everything for the next channel: this one is gone."""
        self._channel = None
        if self._task is not None:
            self._task.cancel()
            self._task = None
        room = MOST_REPLIES - len(self._waiting)
        self._waiting.extendleft(list(reversed(self._written))[:room])
        self._written.clear()

    def _start(self) -> None:
        if self._task is None and self._channel is not None and self._waiting:
            self._task = asyncio.create_task(self._write(self._channel))

    async def _write(self, channel: Any) -> None:
        try:
            while self._waiting:
                frame = ChannelFrame(payload=self._frames(channel.number), should_close=False)
                await channel.write_queue.put(frame)
        finally:
            if self._task is asyncio.current_task():
                self._task = None

    def _frames(self, channel: int) -> bytes:
        """The next few replies; those written are kept for a moment."""
        taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), TOGETHER))]
        self._written.extend(taken)
        return b"".join([reply(channel, *each, room=FRAME - 8) for each in taken])


class ActorPublisher:
    """Publishes for the mailboxes and the relay; reconnects by itself, declaring the topology anew each time."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._replies = ReplyWriter()

        async def build(connection: AbstractConnection) -> _ActorLine:
            return await _open_line(connection, settings, self._replies)

        self._link = BrokerLink(settings.required_amqp_url(), name, build)

    @classmethod
    async def connect(cls, settings: Settings, name: str, *, wait: float = 30.0) -> Self:
        """A publisher that goes on connecting in the background; returns after `wait` seconds in any case."""
        publisher = cls(settings, name)
        await publisher._link.start(wait)
        return publisher

    @property
    def connected(self) -> bool:
        return self._link.current is not None

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        """Answer a caller without waiting; twice at times, and one that hears nothing sends its command again."""
        self._replies.add(reply_to, correlation_id, body)

    async def confirmed(self, exchange: str, routing_key: str, message: aio_pika.Message, *, mandatory: bool) -> None:
        """Publish, and return when the broker has it. Raises Unavailable."""
        line = self._link.current
        if line is None:
            raise Unavailable("the broker is away")
        try:
            await line.publish(
                exchange, routing_key, message.body, message.properties, mandatory=mandatory, timeout=CONFIRM_TIMEOUT
            )
        except (ConnectionGone, DeliveryError, TimeoutError) as error:
            raise Unavailable(f"the broker did not take a message for {exchange}: {error!r}") from error

    async def close(self) -> None:
        await self._link.close()


async def _open_line(connection: AbstractConnection, settings: Settings, writer: ReplyWriter) -> _ActorLine:
    async with await connection.channel(publisher_confirms=False) as channel:
        await declare(channel, settings)
    confirmed = await open_channel(connection, confirms=True)
    return _ActorLine(confirmed, await open_channel(connection, confirms=False), writer)
