"""One partition queue: its FastStream subscriber, the channel it has to itself, and the acknowledgements on it.

In: deliveries of `callboard.session.<p>.v1`. Out: envelopes to the partition's owner, in delivery order.
A partition is handed over by closing its channel, never by `basic.cancel`: a cancelled consumer keeps its
unacknowledged messages while the next one already gets later ones.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

import aiormq
from aio_pika import IncomingMessage
from aio_pika.abc import AbstractChannel, AbstractRobustQueue
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, QueueType, RabbitBroker, RabbitExchange, RabbitQueue

from callboard_actors.acks import AckChannel, AckLines, Acknowledger
from callboard_actors.ownership import PartitionOwner
from callboard_actors.settle import Envelope
from callboard_actors.spans import arrived
from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import gone_when_broken
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import NO_SPAN
from callboard_runtime.settings import ActorSettings

if TYPE_CHECKING:
    from faststream.rabbit.message import RabbitMessage

logger = logging.getLogger(__name__)

SESSIONS = RabbitExchange(topology.SESSION_EXCHANGE, type=ExchangeType.DIRECT, durable=True)
FINISH_TIMEOUT = 5.0  # seconds for the commit in flight, in which the partition stands still
CLOSE_TIMEOUT = 10.0  # seconds for the broker to confirm that a channel is closed


class AmqpDelivery:
    """The broker's side of one envelope."""

    __slots__ = ("_acks", "_tag")

    def __init__(self, acks: Acknowledger, message: IncomingMessage) -> None:
        self._acks, self._tag = acks, message.delivery_tag or 0
        acks.delivered(self._tag)

    def ack(self) -> None:
        """The command took effect, or was refused, and both are committed."""
        self._acks.ack(self._tag)

    def reject(self) -> None:
        """Set the message aside in the dead-letter queue."""
        self._acks.reject(self._tag)


class PartitionConsumer:
    """Consumes one partition, as its active consumer or as a standby behind others."""

    def __init__(
        self, broker: RabbitBroker, partition: int, settings: ActorSettings, owner: PartitionOwner, lines: AckLines
    ) -> None:
        self.partition, self.owner = partition, owner
        self.joined = self._unfinished = False
        self._broker, self._lines = broker, lines
        self._queue = partition_queue(partition, settings)
        self._subscriber = broker.subscriber(
            self._queue,
            SESSIONS,
            channel=Channel(prefetch_count=settings.prefetch, publisher_confirms=False),
            ack_policy=AckPolicy.MANUAL,
            decoder=_undecoded,
            no_reply=True,
            title=f"session commands, partition {partition}",
            description="Commands of the sessions of one partition, in order; one process consumes at a time.",
        )
        self._subscriber(self._handler())
        # FastStream declares, consumes, recovers and documents. Its own way to a handler, with scopes and middlewares
        # for each message, only unpacks what is taken here as it came.
        self._subscriber.consume = self._consume
        self._consumed: AbstractRobustQueue | None = None
        self._acks: Acknowledger | None = None
        self._moving = asyncio.Lock()

    async def join(self) -> None:
        """Consume: as the active one if nobody else does, else behind those who already wait.

        Does nothing when joined already. This and the next two raise ConnectionGone while the broker is away.
        """
        async with self._moving, gone_when_broken():
            if not self.joined:
                await self._open()

    async def leave(self) -> None:
        """Finish the commit in flight, then close the channel: the next in line gets what was not acknowledged."""
        async with self._moving, gone_when_broken():
            await self._shut()

    async def rejoin(self) -> None:
        """Go to the end of the line: `leave`, then `join`; when that fails, `consuming` says no until it succeeded."""
        async with self._moving, gone_when_broken():
            self._unfinished = True
            try:
                await self._shut()
            finally:
                # aio-pika may reopen the channel behind our back: who is not joined drops what arrives, for ever.
                self.joined = True
            self._unfinished = False
            await self._open()

    async def consuming(self) -> bool:
        """Whether the channel is open and the broker knows our consumer, as far as this side can tell."""
        if self._unfinished or self._consumed is None or self._consumed.channel.is_closed:
            return False
        channel = await self._consumed.channel.get_underlay_channel()
        return isinstance(channel, aiormq.Channel) and bool(channel.consumers)

    async def _open(self) -> None:
        # Set before anything arrives. It stays set when this fails: aio-pika may reopen the channel behind our back.
        self.joined = True
        if self._consumed is None:
            # FastStream drops what arrives before it says that it runs, and says so only after it consumes.
            self._subscriber.running = True
            await self._subscriber.start()
            self._consumed = await self._broker.declare_queue(self._queue)
            self._consumed.channel.close_callbacks.add(self._on_channel_closed)
        elif self._consumed.channel.is_closed:
            await _reopen(self._consumed.channel)

    async def _shut(self) -> None:
        self.joined = False
        # A commit that takes longer is fenced by the next owner, or ends before it and is answered again.
        with suppress(TimeoutError):
            async with asyncio.timeout(FINISH_TIMEOUT):
                await self.owner.close()
        if self._acks is not None:
            await self._acks.flushed()
            self._acks = None
        if self._consumed is not None and self._consumed.channel.is_initialized:
            # Also when it is closed: aio-pika must not reopen it meanwhile.
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._consumed.channel.close()

    async def _on_channel_closed(self, *_: object) -> None:
        # Also when the connection broke: aio-pika then reopens the channel by itself, and deliveries name a new one.
        self.owner.drop()

    async def _consume(self, msg: IncomingMessage) -> None:
        self._deliver(msg)

    def _handler(self) -> Callable[[bytes], Any]:
        async def on_command(body: bytes) -> None:
            message = cast("RabbitMessage", self._broker.context.get_local("message"))
            self._deliver(message.raw_message)

        return on_command

    def _deliver(self, message: IncomingMessage) -> None:
        channel = message.channel
        if not self.joined or channel.is_closed:
            return  # on its way while the channel was being closed: it will be delivered again
        if self._acks is None or self._acks.channel is not channel:
            self._acks = Acknowledger(cast(AckChannel, channel), self._lines.of(channel))
        delivery = AmqpDelivery(self._acks, message)
        trace = NO_SPAN if tracing.current is None else arrived(message.headers)
        self.owner.deliver(Envelope(message.body, message.reply_to, message.correlation_id, delivery, trace), channel)


def partition_queue(partition: int, settings: ActorSettings) -> RabbitQueue:
    """The queue of one partition, as every process declares it."""
    return RabbitQueue(
        topology.partition_queue(partition),
        queue_type=QueueType.QUORUM,
        durable=True,
        routing_key=str(partition),
        arguments=cast(Any, topology.partition_arguments(settings.delivery_limit, settings.max_mailbox)),
    )


async def _reopen(channel: AbstractChannel) -> None:
    """Open a channel that was closed, in turn with aio-pika's own recovery, which does the same after a cut.

    Both at once may leave a consumer that nobody closes, and a recovery that waits for itself for ever.
    """
    robust = cast(Any, channel)
    robust._close_called = False  # `close` set it, so that nobody reopens the channel; `reopen` would do the same
    await robust.restore()


async def _undecoded(message: RabbitMessage) -> bytes:
    return message.body
