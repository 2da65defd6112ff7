"""Prefetch, fairness, heartbeats: how much a consumer gets, and when it counts as dead."""

import asyncio

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractConnection

from contracts.amqp.conftest import Connect
from contracts.amqp.support import PATIENCE, inbox_of, numbers, publish_numbers, ready_count
from services import TcpProxy
from waiting import until


async def test_prefetch_bounds_what_is_out(connection: AbstractConnection) -> None:
    channel, observer = await connection.channel(), await connection.channel()
    await channel.set_qos(prefetch_count=3)
    queue = await channel.declare_queue("q")
    await publish_numbers(observer, "q", range(10))
    inbox = await inbox_of(queue)
    held = await inbox.take(3)
    assert await ready_count(observer, "q") == 7
    await held[0].ack()
    assert numbers(await inbox.take(1)) == [3]
    assert await ready_count(observer, "q") == 6
    assert numbers(inbox.seen) == [0, 1, 2, 3]


async def test_each_consumer_has_its_own_prefetch(connection: AbstractConnection) -> None:
    channel, observer = await connection.channel(), await connection.channel()
    await channel.set_qos(prefetch_count=2)
    inboxes = [await inbox_of(await channel.declare_queue(name)) for name in ("a", "b")]
    for name in ("a", "b"):
        await publish_numbers(observer, name, range(5))
    for inbox in inboxes:
        assert numbers(await inbox.take(2)) == [0, 1]
    assert [await ready_count(observer, name) for name in ("a", "b")] == [3, 3]


async def test_without_acknowledgement_prefetch_does_not_count(channel: AbstractChannel) -> None:
    await channel.set_qos(prefetch_count=1)
    queue = await channel.declare_queue("q")
    await publish_numbers(channel, "q", range(20))
    assert numbers(await (await inbox_of(queue, no_ack=True)).take(20)) == list(range(20))


async def test_fetched_message_is_redelivered_when_its_channel_closes(connection: AbstractConnection) -> None:
    first, second = await connection.channel(), await connection.channel()
    queue = await first.declare_queue("q")
    await publish_numbers(first, "q", [1, 2])
    fetched = await queue.get()
    assert (fetched.body, fetched.redelivered) == (b"1", False)
    await first.close()
    again = await (await inbox_of(await second.get_queue("q"))).take(2)
    assert [(message.body, message.redelivered) for message in again] == [(b"1", True), (b"2", False)]


async def test_unknown_delivery_tag_closes_the_channel(connection: AbstractConnection) -> None:
    channel = await connection.channel()
    underlay = await channel.get_underlay_channel()
    await underlay.basic_ack(99)

    async def closed() -> bool:
        return channel.is_closed

    await until(closed)


async def test_idle_connection_stays_open_by_heartbeats(broker_url: str) -> None:
    """Both sides beat each half second or so; the client would hang up on a silent broker, and the broker on it."""
    async with await aio_pika.connect(f"{broker_url}?heartbeat=1") as connection:
        channel = await connection.channel()
        quiet_for = asyncio.get_running_loop().time() + 4  # more than three intervals

        async def over() -> bool:
            return asyncio.get_running_loop().time() > quiet_for

        await until(over)
        assert (await channel.declare_queue(exclusive=True)).name


async def test_frozen_consumer_is_dropped_and_its_messages_go_on(broker_url: str, connect: Connect) -> None:
    other = await (await connect()).channel()
    async with TcpProxy.for_url(broker_url) as proxy:
        frozen = await aio_pika.connect(f"{proxy.url(broker_url)}?heartbeat=1")
        channel = await frozen.channel()
        held = await inbox_of(await channel.declare_queue("q"))
        await publish_numbers(other, "q", range(3))
        await held.take(3)
        proxy.pause()
        inbox = await inbox_of(await other.get_queue("q"))
        async with asyncio.timeout(PATIENCE):
            again = await inbox.take(3)
        assert numbers(again) == [0, 1, 2]
        assert all(message.redelivered for message in again)
        proxy.resume()
        await proxy.disconnect_all()
        await frozen.close()


async def test_vanished_client_frees_its_messages_at_once(broker_url: str, connect: Connect) -> None:
    other = await (await connect()).channel()
    async with TcpProxy.for_url(broker_url) as proxy:
        doomed = await aio_pika.connect(f"{proxy.url(broker_url)}?heartbeat=10")
        held = await inbox_of(await (await doomed.channel()).declare_queue("q"))
        await publish_numbers(other, "q", range(3))
        await held.take(3)
        inbox = await inbox_of(await other.get_queue("q"))
        await proxy.disconnect_all()
        assert numbers(await inbox.take(3)) == [0, 1, 2]
        await doomed.close()
