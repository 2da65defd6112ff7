"""Lanes on both brokers: what a reader gets, and what a publisher does without a broker."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import pytest
from aio_pika.abc import AbstractQueue, DeliveryMode

from callboard_runtime.broker import topology
from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.stream.lanes import LanePublisher
from contracts.peers import PATIENCE
from services import TcpProxy
from waiting import until

SESSION, RUN = uuid.UUID(int=7), uuid.UUID(int=8)


@pytest.fixture
async def lane(broker_url: str) -> AsyncIterator[AbstractQueue]:
    """A front's queue, bound to the session's lane."""
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange(topology.LANE_EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
        queue = await channel.declare_queue(exclusive=True, arguments=dict(topology.FRONT_QUEUE_ARGUMENTS))
        await queue.bind(exchange, topology.lane_key(SESSION))
        yield queue


async def test_a_batch_arrives_as_lines_with_the_headers_a_reader_decides_by(
    broker_url: str, lane: AbstractQueue
) -> None:
    lanes = await LanePublisher.connect(broker_url, "test")
    batch = EventBatch(epoch=3, first_seq=4, lines=('{"a":1}', '{"b":"ü"}'))
    await lanes.publish(SESSION, RUN, 2, batch, EventId(2, 9), closing=True)
    message = await _next(lane)
    assert message.body.decode().split("\n") == list(batch.lines)
    assert message.delivery_mode is DeliveryMode.NOT_PERSISTENT
    assert dict(message.headers) == {
        topology.H_SESSION: str(SESSION),
        topology.H_RUN: str(RUN),
        topology.H_LEG: 2,
        topology.H_EPOCH: 3,
        topology.H_FIRST: 4,
        topology.H_PREVIOUS: "2-9",
        topology.H_CLOSING: True,
    }
    await lanes.close()


async def test_a_poke_is_empty_and_has_first_zero(broker_url: str, lane: AbstractQueue) -> None:
    lanes = await LanePublisher.connect(broker_url, "test")
    await lanes.poke(SESSION)
    message = await _next(lane)
    assert message.body == b""
    assert message.headers[topology.H_FIRST] == 0
    assert message.headers[topology.H_SESSION] == str(SESSION)
    await lanes.close()


async def test_without_readers_or_broker_a_batch_is_dropped_and_nothing_raises(
    broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    proxy = await tcp_proxy(broker_url)
    lanes = await LanePublisher.connect(proxy.url(broker_url), "test")
    batch = EventBatch(epoch=1, first_seq=1, lines=("{}",))
    await lanes.publish(SESSION, RUN, 1, batch, EventId(0, 0))
    await proxy.refuse()
    await until(lambda: not lanes.connected)
    before = lanes.dropped
    await lanes.publish(SESSION, RUN, 1, batch, EventId(0, 0))
    assert lanes.dropped == before + 1
    await proxy.accept()
    await until(lambda: lanes.connected)
    await lanes.close()


async def _next(queue: AbstractQueue) -> aio_pika.abc.AbstractIncomingMessage:
    found: list[aio_pika.abc.AbstractIncomingMessage] = []

    async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
        found.append(message)

    tag = await queue.consume(take, no_ack=True)
    await until(lambda: found)
    await queue.cancel(tag, timeout=PATIENCE)
    return found[0]
