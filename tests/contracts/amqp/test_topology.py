"""Declaring, locking, deleting: who may do what, and which error says no."""

from typing import Any, cast

import aio_pika
import pytest
from aio_pika import ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractConnection
from aiormq.exceptions import (
    AMQPConnectionError,
    ChannelAccessRefused,
    ChannelLockedResource,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    ProbableAuthenticationError,
)

from contracts.amqp.conftest import Connect
from contracts.amqp.support import QUORUM, publish_numbers
from waiting import until


async def test_wrong_password_is_refused(broker_url: str) -> None:
    credentials, _, address = broker_url.removeprefix("amqp://").partition("@")
    user = credentials.split(":")[0]
    with pytest.raises(ProbableAuthenticationError):
        await aio_pika.connect(f"amqp://{user}:wrong@{address}")


async def test_unknown_queue_and_exchange_are_404(connection: AbstractConnection) -> None:
    with pytest.raises(ChannelNotFoundEntity):
        await (await connection.channel()).declare_queue("absent", passive=True)
    with pytest.raises(ChannelNotFoundEntity):
        await (await connection.channel()).declare_exchange("absent", passive=True)


async def test_a_fault_closes_its_channel_only(connection: AbstractConnection) -> None:
    healthy, faulty = await connection.channel(), await connection.channel()
    with pytest.raises(ChannelNotFoundEntity):
        await faulty.get_queue("absent")
    queue = await healthy.declare_queue("alive")
    await publish_numbers(healthy, queue.name, [1])
    assert (await queue.get()).body == b"1"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"durable": True}, {"durable": False}),
        ({"arguments": {"x-max-length": 3}, "durable": True}, {"arguments": {"x-max-length": 4}, "durable": True}),
        ({"durable": True, "arguments": QUORUM}, {"durable": True}),
    ],
    ids=["durable", "argument", "type"],
)
async def test_redeclaring_a_queue_differently_is_406(
    connection: AbstractConnection, first: dict[str, object], second: dict[str, object]
) -> None:
    await (await connection.channel()).declare_queue("q", **first)  # pyright: ignore[reportArgumentType] - parametrised
    await (await connection.channel()).declare_queue("q", **first)  # pyright: ignore[reportArgumentType] - parametrised
    with pytest.raises(ChannelPreconditionFailed):
        await (await connection.channel()).declare_queue("q", **second)  # pyright: ignore[reportArgumentType] - parametrised


async def test_redeclaring_an_exchange_differently_is_406(connection: AbstractConnection) -> None:
    await (await connection.channel()).declare_exchange("e", ExchangeType.TOPIC)
    with pytest.raises(ChannelPreconditionFailed):
        await (await connection.channel()).declare_exchange("e", ExchangeType.DIRECT)


async def test_malformed_argument_is_406(channel: AbstractChannel) -> None:
    with pytest.raises(ChannelPreconditionFailed):
        await channel.declare_queue("q", arguments={"x-max-length": -1})


async def test_reserved_names_are_refused(connection: AbstractConnection) -> None:
    with pytest.raises(ChannelAccessRefused):
        await (await connection.channel()).declare_queue("amq.mine")
    with pytest.raises(ChannelAccessRefused):
        await (await connection.channel()).declare_exchange("amq.mine")


async def test_exclusive_queue_is_locked_for_others_and_dies_with_its_connection(connect: Connect) -> None:
    owner, other = await connect(), await connect()
    queue = await (await owner.channel()).declare_queue(exclusive=True)
    assert queue.name.startswith("amq.gen-")
    with pytest.raises(ChannelLockedResource):
        await (await other.channel()).declare_queue(queue.name, passive=True)
    await owner.close()

    async def gone() -> bool:
        try:
            await (await other.channel()).declare_queue(queue.name, passive=True)
        except ChannelNotFoundEntity:
            return True
        except ChannelLockedResource:
            return False
        return False

    await until(gone)


async def test_auto_delete_queue_goes_with_its_last_consumer(connection: AbstractConnection) -> None:
    channel = await connection.channel()
    queue = await channel.declare_queue("temporary", auto_delete=True)
    tags = [await queue.consume(_ignore), await queue.consume(_ignore)]
    await queue.cancel(tags[0])
    await channel.declare_queue("temporary", passive=True)
    await queue.cancel(tags[1])
    with pytest.raises(ChannelNotFoundEntity):
        await channel.declare_queue("temporary", passive=True)


async def test_deleting_a_queue_cancels_its_consumers(connect: Connect) -> None:
    consumer, admin = await (await connect()).channel(), await (await connect()).channel()
    queue = await consumer.declare_queue("doomed")
    await queue.consume(_ignore, consumer_tag="told")
    underlay = await consumer.get_underlay_channel()
    assert "told" in underlay.consumers
    await admin.queue_delete("doomed")

    async def forgotten() -> bool:
        return "told" not in underlay.consumers

    await until(forgotten)


async def test_second_consumer_of_an_exclusive_one_is_403(connection: AbstractConnection) -> None:
    first, second = await connection.channel(), await connection.channel()
    await (await first.declare_queue("q")).consume(_ignore, exclusive=True)
    with pytest.raises(ChannelAccessRefused):
        await (await second.declare_queue("q")).consume(_ignore)


async def test_conditional_deletes(connection: AbstractConnection) -> None:
    channel = await connection.channel()
    await channel.declare_queue("full")
    await publish_numbers(channel, "full", [1])
    with pytest.raises(ChannelPreconditionFailed):
        await channel.queue_delete("full", if_empty=True)
    channel = await connection.channel()
    await channel.queue_delete("full")
    await channel.queue_delete("full")


async def test_purge_and_unbind(channel: AbstractChannel) -> None:
    exchange = await channel.declare_exchange("e", ExchangeType.DIRECT)
    queue = await channel.declare_queue("q")
    await queue.bind(exchange, "k")
    await exchange.publish(Message(b"1"), "k")
    assert (await queue.purge()).message_count == 1
    await queue.unbind(exchange, "k")
    await exchange.publish(Message(b"2"), "k", mandatory=False)
    assert await queue.get(fail=False) is None


async def test_connection_closes_cleanly_from_the_client(broker_url: str) -> None:
    connection = await aio_pika.connect(broker_url)
    channel = await connection.channel()
    await channel.declare_queue("kept", durable=True)
    await connection.close()
    with pytest.raises((AMQPConnectionError, RuntimeError)):
        await channel.declare_queue("kept", durable=True)


async def _ignore(_: object) -> None:
    return None


async def test_the_third_broker_of_the_contracts_is_rabbitmq_4(rabbitmq4_vhost_url: str) -> None:
    async with await aio_pika.connect(rabbitmq4_vhost_url) as connection:
        properties = cast(Any, connection).transport.connection.server_properties
        assert properties["version"].startswith("4."), properties
