"""What this process publishes outside of lanes: replies to callers, wake-ups for workers, control messages.

One connection, apart from the consuming one: a broker that throttles publishers must not stop acknowledgements.
"""

from __future__ import annotations

import logging
from typing import Self

import aio_pika
import aiormq.abc
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import DeliveryError
from aiormq import spec

from callboard_runtime.broker.connection import BrokerLink, ConnectionGone, Line, open_channel
from callboard_runtime.broker.topology_setup import declare
from callboard_runtime.errors import Unavailable
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

TRANSIENT = 1
CONFIRM_TIMEOUT = 5.0  # seconds
REPLY_TIMEOUT = 1.0  # seconds


class _ActorLine(Line):
    """A channel with confirms, and one without for replies."""

    def __init__(self, confirmed: aiormq.abc.AbstractChannel, replies: aiormq.abc.AbstractChannel) -> None:
        super().__init__(confirmed)
        self.replies = Line(replies)


class ActorPublisher:
    """Publishes for the mailboxes and the relay; reconnects by itself, declaring the topology anew each time."""

    def __init__(self, settings: Settings, name: str) -> None:
        async def build(connection: AbstractConnection) -> _ActorLine:
            return await _open_line(connection, settings)

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

    async def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        """Answer a caller, at most once and without waiting: a caller that hears nothing sends its command again."""
        line = self._link.current
        if line is None:
            return
        properties = spec.Basic.Properties(
            content_type="application/json", correlation_id=correlation_id, delivery_mode=TRANSIENT, message_id="-"
        )
        try:
            await line.replies.publish("", reply_to, body, properties, timeout=REPLY_TIMEOUT)
        except (ConnectionGone, DeliveryError, TimeoutError) as error:
            logger.debug("a reply was dropped: %s", error, extra={"action": "reply_dropped"})

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


async def _open_line(connection: AbstractConnection, settings: Settings) -> _ActorLine:
    async with await connection.channel(publisher_confirms=False) as channel:
        await declare(channel, settings)
    confirmed = await open_channel(connection, confirms=True)
    return _ActorLine(confirmed, await open_channel(connection, confirms=False))
