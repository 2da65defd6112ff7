"""Where each kind of exchange sends a message."""

import pytest
from aio_pika import ExchangeType, Message
from aio_pika.abc import AbstractChannel
from aiormq.exceptions import ChannelNotFoundEntity

from contracts.amqp.support import inbox_of, publish_text


async def test_default_exchange_routes_by_queue_name(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("by-name")
    await publish_text(channel.default_exchange, "by-name", "hello")
    message = await queue.get()
    assert (message.body, message.exchange, message.routing_key) == (b"hello", "", "by-name")


@pytest.mark.parametrize(
    ("kind", "binding", "routes", "misses"),
    [
        (ExchangeType.DIRECT, "a", ["a"], ["b", "", "a.b"]),
        (ExchangeType.FANOUT, "ignored", ["a", "", "x.y"], []),
        (ExchangeType.TOPIC, "a.*.c", ["a.b.c", "a..c"], ["a.c", "a.b.b.c", "b.b.c"]),
        (ExchangeType.TOPIC, "a.#", ["a", "a.b", "a.b.c"], ["b", "b.a", ""]),
        (ExchangeType.TOPIC, "#.z", ["z", "a.z", "a.b.z"], ["z.a", ""]),
        (ExchangeType.TOPIC, "a.#.b.*", ["a.b.c", "a.x.b.y", "a.b.b.c"], ["a.b", "a.x.c"]),
        (ExchangeType.TOPIC, "#", ["", "a", "a.b"], []),
        (ExchangeType.TOPIC, "*", ["a"], ["a.b", ""]),
    ],
)
async def test_routing_keys(
    channel: AbstractChannel, kind: ExchangeType, binding: str, routes: list[str], misses: list[str]
) -> None:
    exchange = await channel.declare_exchange("e", kind)
    queue = await channel.declare_queue("q")
    await queue.bind(exchange, binding)
    for key in [*misses, *routes]:
        await publish_text(exchange, key, key)
    inbox = await inbox_of(queue, no_ack=True)
    assert [message.body.decode() for message in await inbox.take(len(routes))] == routes


async def test_headers_exchange_matches_all_or_any(channel: AbstractChannel) -> None:
    exchange = await channel.declare_exchange("e", ExchangeType.HEADERS)
    both, either = await channel.declare_queue("both"), await channel.declare_queue("either")
    await both.bind(exchange, arguments={"x-match": "all", "a": 1, "b": "two"})
    await either.bind(exchange, arguments={"x-match": "any", "a": 1, "b": "two"})
    await exchange.publish(Message(b"half", headers={"a": 1}), "", mandatory=False)
    await exchange.publish(Message(b"whole", headers={"a": 1, "b": "two"}), "", mandatory=False)
    assert [message.body for message in await (await inbox_of(both)).take(1)] == [b"whole"]
    assert [message.body for message in await (await inbox_of(either)).take(2)] == [b"half", b"whole"]


async def test_one_copy_per_queue_however_many_bindings_match(channel: AbstractChannel) -> None:
    exchange = await channel.declare_exchange("e", ExchangeType.TOPIC)
    queue = await channel.declare_queue("q")
    for pattern in ("a.*", "a.#", "#"):
        await queue.bind(exchange, pattern)
    await publish_text(exchange, "a.b", "one")
    await publish_text(exchange, "a.b", "two")
    inbox = await inbox_of(queue, no_ack=True)
    assert [message.body for message in await inbox.take(2)] == [b"one", b"two"]


async def test_exchange_to_exchange_bindings_end_even_in_a_circle(channel: AbstractChannel) -> None:
    first = await channel.declare_exchange("first", ExchangeType.TOPIC)
    second = await channel.declare_exchange("second", ExchangeType.FANOUT)
    await second.bind(first, "in.#")
    await first.bind(second)
    queue = await channel.declare_queue("q")
    await queue.bind(second)
    await publish_text(first, "in.here", "through")
    await publish_text(first, "elsewhere", "lost")
    await publish_text(second, "x", "direct")
    inbox = await inbox_of(queue, no_ack=True)
    assert [message.body for message in await inbox.take(2)] == [b"through", b"direct"]


async def test_alternate_exchange_takes_the_unrouted(channel: AbstractChannel) -> None:
    fallback = await channel.declare_exchange("fallback", ExchangeType.FANOUT)
    exchange = await channel.declare_exchange("e", arguments={"alternate-exchange": "fallback"})
    queue = await channel.declare_queue("q")
    await queue.bind(fallback)
    await publish_text(exchange, "nobody", "caught")
    assert (await queue.get()).body == b"caught"


async def test_auto_delete_exchange_goes_with_its_last_binding(channel: AbstractChannel) -> None:
    exchange = await channel.declare_exchange("temporary", ExchangeType.FANOUT, auto_delete=True)
    queue = await channel.declare_queue("q")
    await queue.bind(exchange)
    await queue.unbind(exchange)
    with pytest.raises(ChannelNotFoundEntity):
        await channel.declare_exchange("temporary", passive=True)
