"""What several contract tests need: collecting deliveries, publishing numbered messages."""

import asyncio
from collections.abc import Iterable

from aio_pika import Message
from aio_pika.abc import AbstractChannel, AbstractExchange, AbstractIncomingMessage, AbstractQueue

PATIENCE = 15.0  # seconds before a wait counts as failed; no test depends on it being short

QUORUM = {"x-queue-type": "quorum"}
SINGLE_ACTIVE = {**QUORUM, "x-single-active-consumer": True}


class Inbox:
    """Collects what a consumer is given, unacknowledged."""

    def __init__(self) -> None:
        self._arrived: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()
        self.seen: list[AbstractIncomingMessage] = []

    async def __call__(self, message: AbstractIncomingMessage) -> None:
        self.seen.append(message)
        self._arrived.put_nowait(message)

    async def take(self, count: int) -> list[AbstractIncomingMessage]:
        """The next `count` messages, in order of delivery."""
        async with asyncio.timeout(PATIENCE):
            return [await self._arrived.get() for _ in range(count)]

    async def one(self) -> AbstractIncomingMessage:
        return (await self.take(1))[0]


async def inbox_of(queue: AbstractQueue, *, no_ack: bool = False, arguments: dict[str, int] | None = None) -> Inbox:
    inbox = Inbox()
    await queue.consume(inbox, no_ack=no_ack, arguments=arguments)
    return inbox


async def publish_numbers(channel: AbstractChannel, routing_key: str, numbers: Iterable[int]) -> None:
    for number in numbers:
        await channel.default_exchange.publish(Message(b"%d" % number), routing_key)


async def publish_text(exchange: AbstractExchange, routing_key: str, text: str) -> None:
    await exchange.publish(Message(text.encode()), routing_key, mandatory=False)


def numbers(messages: Iterable[AbstractIncomingMessage]) -> list[int]:
    return [int(message.body) for message in messages]


async def ready_count(channel: AbstractChannel, queue: str) -> int:
    declared = await channel.declare_queue(queue, passive=True)
    count = declared.declaration_result.message_count
    assert count is not None
    return count
