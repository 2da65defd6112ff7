"""Confirms, returns, big bodies and direct replies."""

import asyncio

import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel, AbstractConnection, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import ChannelNotFoundEntity, DeliveryError, PublishError

from contracts.amqp.conftest import Connect
from contracts.amqp.support import PATIENCE, QUORUM, Inbox, inbox_of, numbers, publish_numbers, ready_count

REPLY_TO = "amq.rabbitmq.reply-to"


async def test_every_publish_of_a_burst_is_confirmed_once_and_in_order(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("q", durable=True, arguments=QUORUM)
    sends = [channel.default_exchange.publish(Message(b"%d" % number), "q") for number in range(300)]
    confirms = await asyncio.gather(*sends)
    assert all(confirm is not None and confirm.name == "Basic.Ack" for confirm in confirms)
    assert numbers(await (await inbox_of(queue)).take(300)) == list(range(300))


async def test_mandatory_unroutable_is_returned(connection: AbstractConnection) -> None:
    channel = await connection.channel(on_return_raises=True)
    with pytest.raises(PublishError):
        await channel.default_exchange.publish(Message(b"lost", message_id="m1"), "nowhere", mandatory=True)
    queue = await channel.declare_queue("somewhere")
    await channel.default_exchange.publish(Message(b"found"), "somewhere", mandatory=True)
    assert (await queue.get()).body == b"found"


async def test_optional_unroutable_is_confirmed(channel: AbstractChannel) -> None:
    confirm = await channel.default_exchange.publish(Message(b"lost"), "nowhere", mandatory=False)
    assert confirm is not None
    assert confirm.name == "Basic.Ack"


async def test_publish_to_an_unknown_exchange_closes_the_channel(connection: AbstractConnection) -> None:
    channel = await connection.channel()
    exchange = await channel.get_exchange("absent", ensure=False)
    with pytest.raises(ChannelNotFoundEntity):
        await exchange.publish(Message(b""), "k")


async def test_full_queue_refuses_publishers_until_it_has_room(channel: AbstractChannel) -> None:
    arguments = {"x-max-length": 5, "x-overflow": "reject-publish"}
    queue = await channel.declare_queue("bounded", durable=True, arguments=arguments)
    await publish_numbers(channel, "bounded", range(5))
    with pytest.raises(DeliveryError):
        await channel.default_exchange.publish(Message(b"too much"), "bounded")
    assert [(await queue.get(no_ack=True)).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
    await channel.default_exchange.publish(Message(b"again"), "bounded")
    assert (await queue.get()).body == b"again"


async def test_full_quorum_queue_refuses_publishers(channel: AbstractChannel) -> None:
    """The quorum limit is soft in RabbitMQ: some publishes beyond it pass, then all are refused."""
    arguments = {**QUORUM, "x-max-length": 5, "x-overflow": "reject-publish"}
    queue = await channel.declare_queue("bounded", durable=True, arguments=arguments)
    outcomes = []
    for number in range(200):
        try:
            await channel.default_exchange.publish(Message(b"%d" % number), "bounded")
            outcomes.append(True)
        except DeliveryError:
            outcomes.append(False)
    accepted = [number for number, taken in enumerate(outcomes) if taken]
    assert accepted[:5] == [0, 1, 2, 3, 4]
    assert outcomes[-1] is False
    assert numbers(await _drain(queue, len(accepted))) == accepted


async def test_bodies_larger_than_a_frame_and_all_properties_survive(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("q")
    body = bytes(range(256)) * 4096
    headers = {
        "text": "käse",
        "number": 2**40,
        "small": -3,
        "exact": 0.5,
        "flag": True,
        "nothing": None,
        "list": [1, "two", {"three": 3}],
        "table": {"nested": {"deeper": "yes"}},
        "raw": bytearray(b"\x00\xff"),
    }
    sent = Message(
        body,
        headers=headers,
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=DeliveryMode.PERSISTENT,
        priority=3,
        correlation_id="c",
        reply_to="r",
        message_id="m",
        type="t",
        app_id="a",
    )
    await channel.default_exchange.publish(sent, "q")
    got = await queue.get()
    assert got.body == body
    assert got.headers == headers
    for name in ("content_type", "content_encoding", "delivery_mode", "priority", "correlation_id", "reply_to"):
        assert getattr(got, name) == getattr(sent, name), name
    assert (got.message_id, got.type, got.app_id) == ("m", "t", "a")


async def test_empty_body(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("q")
    await channel.default_exchange.publish(Message(b""), "q")
    assert (await queue.get()).body == b""


async def test_replies_through_an_exclusive_queue(connect: Connect) -> None:
    """The way commands are answered: many callers, one exclusive reply queue each, correlation ids."""
    server, first, second = [await (await connect()).channel() for _ in range(3)]
    requests = await inbox_of(await server.declare_queue("service"))
    inboxes = []
    for caller in (first, second):
        replies = await caller.declare_queue(exclusive=True)
        inboxes.append(await inbox_of(replies, no_ack=True))
        request = Message(b"ask", correlation_id=replies.name[-5:], reply_to=replies.name)
        await caller.default_exchange.publish(request, "service")
    for request in await requests.take(2):
        assert request.reply_to
        answer = Message(b"answer", correlation_id=request.correlation_id)
        await server.default_exchange.publish(answer, request.reply_to)
        await request.ack()
    answers = [await inbox.one() for inbox in inboxes]
    assert [answer.body for answer in answers] == [b"answer", b"answer"]
    assert answers[0].correlation_id != answers[1].correlation_id


async def test_direct_reply_to(connect: Connect) -> None:
    server, caller = await (await connect()).channel(), await (await connect()).channel()
    requests = await inbox_of(await server.declare_queue("service"))
    replies = Inbox()
    pseudo_queue = await caller.get_queue(REPLY_TO, ensure=False)
    await pseudo_queue.consume(replies, no_ack=True)
    await caller.default_exchange.publish(Message(b"ask", reply_to=REPLY_TO, correlation_id="7"), "service")
    request = await requests.one()
    assert request.reply_to
    assert request.reply_to.startswith(f"{REPLY_TO}.")
    await server.default_exchange.publish(Message(b"answer", correlation_id="7"), request.reply_to)
    answer = await replies.one()
    assert (answer.body, answer.correlation_id) == (b"answer", "7")


async def test_counts_of_ready_messages(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("q")
    for number in range(3):
        await channel.default_exchange.publish(Message(b"%d" % number), "q")
    assert await ready_count(channel, "q") == 3
    async with asyncio.timeout(PATIENCE):
        await (await queue.get()).ack()
    assert await ready_count(channel, "q") == 2
    while (message := await queue.get(fail=False)) is not None:
        await message.ack()
    assert await ready_count(channel, "q") == 0


async def _drain(queue: AbstractQueue, count: int) -> list[AbstractIncomingMessage]:
    return await (await inbox_of(queue, no_ack=True)).take(count)
