"""FastStream as the actors use it: one channel per partition, manual acknowledgement, replies published back."""

import asyncio

from aio_pika import Message
from aio_pika.abc import AbstractChannel
from faststream import AckPolicy
from faststream.rabbit import Channel, ExchangeType, RabbitBroker, RabbitExchange, RabbitQueue
from faststream.rabbit.annotations import RabbitMessage
from faststream.rabbit.schemas import QueueType
from faststream.rabbit.subscriber import RabbitSubscriber

from contracts.amqp.support import PATIENCE, SINGLE_ACTIVE, inbox_of
from waiting import until

PARTITIONS = 4


async def test_partitioned_actors_with_manual_acknowledgement(broker_url: str, channel: AbstractChannel) -> None:
    replies = await channel.declare_queue(exclusive=True)
    answers = await inbox_of(replies, no_ack=True)
    broker, subscribers = _actors(broker_url)
    await broker.start()
    try:
        exchange = await channel.get_exchange("commands")
        for number in range(40):
            request = Message(b"%d" % number, reply_to=replies.name, correlation_id=str(number))
            await exchange.publish(request, f"p{number % PARTITIONS}")
        answered = [int(answer.body) for answer in await answers.take(40)]
        assert sorted(answered) == list(range(40))
        for partition in range(PARTITIONS):
            mine = [number for number in answered if number % PARTITIONS == partition]
            assert mine == sorted(mine)
        for subscriber in subscribers:
            await _close_channel(subscriber)
    finally:
        await broker.stop()
    for partition in range(PARTITIONS):
        left = await channel.declare_queue(f"partition.{partition}", passive=True)
        assert left.declaration_result.message_count == 0


async def test_unacknowledged_command_goes_to_the_next_owner(broker_url: str) -> None:
    received: list[tuple[str, bytes]] = []
    first = await _owner(broker_url, "first", received, acknowledge=False)
    second = await _owner(broker_url, "second", received, acknowledge=True)
    await first.publish(b"command", "partition")

    async def received_by(count: int) -> bool:
        return len(received) == count

    await until(lambda: received_by(1))
    await first.stop()
    await until(lambda: received_by(2))
    assert received == [("first", b"command"), ("second", b"command")]
    await second.stop()


def _actors(url: str) -> tuple[RabbitBroker, list[RabbitSubscriber]]:
    broker = RabbitBroker(f"{url}?heartbeat=10", apply_types=False, logger=None)
    exchange = RabbitExchange("commands", type=ExchangeType.DIRECT, durable=True)
    subscribers = []
    for partition in range(PARTITIONS):
        subscriber = broker.subscriber(
            RabbitQueue(
                f"partition.{partition}",
                queue_type=QueueType.QUORUM,
                durable=True,
                routing_key=f"p{partition}",
                arguments={"x-single-active-consumer": True},
            ),
            exchange,
            channel=Channel(prefetch_count=16),
            ack_policy=AckPolicy.MANUAL,
            no_reply=True,  # else the handler's None is published to reply_to as well
        )
        subscriber(_answering(broker))
        subscribers.append(subscriber)
    return broker, subscribers


def _answering(broker: RabbitBroker):
    async def handle(body: bytes) -> None:
        message: RabbitMessage = broker.context.get_local("message")
        await broker.publish(body, message.reply_to, correlation_id=message.correlation_id)
        await message.ack()

    return handle


async def _owner(url: str, name: str, received: list[tuple[str, bytes]], *, acknowledge: bool) -> RabbitBroker:
    broker = RabbitBroker(f"{url}?heartbeat=10", apply_types=False, logger=None)
    queue = RabbitQueue("partition", queue_type=QueueType.QUORUM, durable=True, arguments=_SAC)
    subscriber = broker.subscriber(queue, channel=Channel(prefetch_count=4), ack_policy=AckPolicy.MANUAL)

    async def handle(body: bytes) -> None:
        received.append((name, body))
        if acknowledge:
            await broker.context.get_local("message").ack()

    subscriber(handle)
    async with asyncio.timeout(PATIENCE):
        await broker.start()
    return broker


async def _close_channel(subscriber: RabbitSubscriber) -> None:
    queue = subscriber._queue_obj
    assert queue is not None
    await queue.channel.close()


_SAC = {key: value for key, value in SINGLE_ACTIVE.items() if key != "x-queue-type"}
