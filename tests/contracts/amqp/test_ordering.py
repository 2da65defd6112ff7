"""Order of delivery: over redelivery, channel close and the hand-over of a single active consumer."""

from typing import NamedTuple

import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from contracts.amqp.conftest import Connect
from contracts.amqp.support import QUORUM, SINGLE_ACTIVE, Inbox, inbox_of, numbers, publish_numbers


@pytest.fixture(params=["classic", "quorum"])
def arguments(request: pytest.FixtureRequest) -> dict[str, str | int]:
    """RabbitMQ 3.x puts what comes back to a quorum queue at its tail, unless the queue has a delivery limit."""
    limit = {"x-delivery-limit": 20} if request.param == "quorum" else {}
    return {"x-queue-type": request.param, **limit}


async def test_unacknowledged_of_a_closed_channel_return_to_the_head_in_order(
    connection: AbstractConnection, arguments: dict[str, str | int]
) -> None:
    first, second = await connection.channel(), await connection.channel()
    await first.set_qos(prefetch_count=5)
    queue = await first.declare_queue("q", durable=True, arguments=arguments)
    await publish_numbers(second, "q", range(10))
    inbox = await inbox_of(queue)
    held = await inbox.take(5)
    await held[0].ack()
    await held[2].ack()
    sixth = await inbox.take(2)
    assert numbers(sixth) == [5, 6]
    await first.close()

    again = await (await inbox_of(await second.get_queue("q"))).take(8)
    assert numbers(again) == [1, 3, 4, 5, 6, 7, 8, 9]
    assert [message.redelivered for message in again] == [True] * 5 + [False] * 3


async def test_requeue_of_the_head_keeps_its_place(channel: AbstractChannel, arguments: dict[str, str | int]) -> None:
    queue = await channel.declare_queue("q", durable=True, arguments=arguments)
    await publish_numbers(channel, "q", range(3))
    first = await queue.get()
    assert numbers([first]) == [0]
    await first.reject(requeue=True)
    again = await (await inbox_of(queue)).take(3)
    assert numbers(again) == [0, 1, 2]
    assert [message.redelivered for message in again] == [True, False, False]


async def test_nack_multiple_requeues_in_order(channel: AbstractChannel, arguments: dict[str, str | int]) -> None:
    await channel.set_qos(prefetch_count=4)
    queue = await channel.declare_queue("q", durable=True, arguments=arguments)
    await publish_numbers(channel, "q", range(6))
    inbox = await inbox_of(queue)
    held = await inbox.take(4)
    await held[3].nack(multiple=True, requeue=True)
    again = await inbox.take(4)
    assert numbers(again) == [0, 1, 2, 3]
    await again[3].ack(multiple=True)
    assert numbers(await inbox.take(2)) == [4, 5]


async def test_ack_multiple_settles_everything_before_it(connection: AbstractConnection) -> None:
    first, second = await connection.channel(), await connection.channel()
    queue = await first.declare_queue("q")
    await publish_numbers(first, "q", range(5))
    held = await (await inbox_of(queue)).take(5)
    await held[2].ack(multiple=True)
    await first.close()
    assert numbers(await (await inbox_of(await second.get_queue("q"))).take(2)) == [3, 4]


async def test_single_active_consumer_gets_everything_and_the_next_in_line_takes_over(connect: Connect) -> None:
    channels = [await (await connect()).channel() for _ in range(3)]
    inboxes = []
    for channel in channels:
        await channel.set_qos(prefetch_count=4)
        queue = await channel.declare_queue("partition", durable=True, arguments=SINGLE_ACTIVE)
        inboxes.append(await inbox_of(queue, arguments={"x-priority": 0}))
    await publish_numbers(channels[0], "partition", range(20))

    held = await inboxes[0].take(4)
    await held[1].ack(multiple=True)
    held = [*held[2:], *await inboxes[0].take(2)]
    assert numbers(held) == [2, 3, 4, 5]
    assert not inboxes[1].seen
    assert not inboxes[2].seen

    await channels[0].close()
    taken = await inboxes[1].take(4)
    assert numbers(taken) == [2, 3, 4, 5]
    assert all(message.redelivered for message in taken)
    assert not inboxes[2].seen


async def test_hand_over_by_closing_channels_keeps_order_under_load(connect: Connect) -> None:
    """Each owner takes some, acknowledges fewer, and closes: nobody sees a later message before an earlier one."""
    publisher = await (await connect()).channel()
    connection = await connect()
    settled: list[int] = []
    standby = await _standby(await connection.channel())
    await publish_numbers(publisher, "partition", range(60))
    for _ in range(6):
        active, standby = standby, await _standby(await connection.channel())
        held = await active.inbox.take(8)
        await held[4].ack(multiple=True)
        settled += numbers(held[:5])
        await active.channel.close()
    assert settled == list(range(30))
    last = await standby.inbox.take(8)
    assert numbers(last) == list(range(30, 38))


class _Standby(NamedTuple):
    channel: AbstractChannel
    inbox: Inbox


async def _standby(channel: AbstractChannel) -> _Standby:
    await channel.set_qos(prefetch_count=8)
    queue = await channel.declare_queue("partition", durable=True, arguments=SINGLE_ACTIVE)
    return _Standby(channel, await inbox_of(queue))


async def test_consumers_share_evenly(connect: Connect) -> None:
    channels = [await (await connect()).channel() for _ in range(2)]
    inboxes = []
    for channel in channels:
        await channel.set_qos(prefetch_count=50)
        inboxes.append(await inbox_of(await channel.declare_queue("q", durable=True, arguments=QUORUM)))
    await publish_numbers(channels[0], "q", range(40))
    shares = [numbers(await inbox.take(20)) for inbox in inboxes]
    assert sorted(shares[0] + shares[1]) == list(range(40))
    assert all(share == sorted(share) for share in shares)
