"""What happens to messages that nobody wants, that wait too long, or that are too many."""

import pytest
from aio_pika import ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage, AbstractQueue
from aiormq.exceptions import ChannelPreconditionFailed
from pamqp import commands

from contracts.amqp.conftest import Connect
from contracts.amqp.support import QUORUM, inbox_of, numbers, publish_numbers, ready_count
from waiting import until


@pytest.fixture
async def graveyard(channel: AbstractChannel) -> AbstractQueue:
    """Dead letters of queues declared with `_DEAD_LETTERS`."""
    exchange = await channel.declare_exchange("dlx", ExchangeType.FANOUT, durable=True)
    queue = await channel.declare_queue("graveyard", durable=True)
    await queue.bind(exchange)
    return queue


_DEAD_LETTERS = {"x-dead-letter-exchange": "dlx"}


async def test_delivery_limit_counts_rejections_and_then_dead_letters(
    channel: AbstractChannel, graveyard: AbstractQueue
) -> None:
    arguments = {**QUORUM, **_DEAD_LETTERS, "x-delivery-limit": 2}
    queue = await channel.declare_queue("work", durable=True, arguments=arguments)
    await channel.set_qos(prefetch_count=1)
    await publish_numbers(channel, "work", [1, 2])
    inbox = await inbox_of(queue)
    counts = []
    for _ in range(3):
        message = await inbox.one()
        assert message.body == b"1"
        counts.append(message.headers.get("x-delivery-count", 0))
        await message.reject(requeue=True)
    assert counts == [0, 1, 2]
    assert (await inbox.one()).body == b"2"
    buried = await (await inbox_of(graveyard)).one()
    assert buried.body == b"1"
    assert _death(buried)["reason"] == "delivery_limit"
    assert _death(buried)["queue"] == "work"


@pytest.mark.parametrize("kind", ["classic", "quorum"])
async def test_rejected_messages_are_dead_lettered_with_their_history(
    channel: AbstractChannel, graveyard: AbstractQueue, kind: str
) -> None:
    arguments = {"x-queue-type": kind, **_DEAD_LETTERS, "x-dead-letter-routing-key": "new-key"}
    queue = await channel.declare_queue("work", durable=True, arguments=arguments)
    await channel.default_exchange.publish(Message(b"1", headers={"mine": 0.1, "kept": "yes"}), "work")
    await (await (await inbox_of(queue)).one()).reject(requeue=False)
    buried = await (await inbox_of(graveyard)).one()
    assert buried.routing_key == "new-key"
    assert buried.headers["kept"] == "yes"
    death = _death(buried)
    assert {key: death[key] for key in ("count", "reason", "queue", "exchange", "routing-keys")} == {
        "count": 1,
        "reason": "rejected",
        "queue": "work",
        "exchange": "",
        "routing-keys": ["work"],
    }
    assert buried.headers["x-first-death-reason"] == "rejected"


async def test_rejected_without_dead_letter_exchange_is_gone(channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("work")
    await publish_numbers(channel, "work", [1, 2])
    inbox = await inbox_of(queue)
    first, second = await inbox.take(2)
    await first.reject(requeue=False)
    await second.ack()
    assert await ready_count(channel, "work") == 0


async def test_expired_messages_are_dead_lettered_in_order(channel: AbstractChannel, graveyard: AbstractQueue) -> None:
    await channel.declare_queue("short", durable=True, arguments={**_DEAD_LETTERS, "x-message-ttl": 50})
    await publish_numbers(channel, "short", range(5))
    buried = await (await inbox_of(graveyard)).take(5)
    assert numbers(buried) == list(range(5))
    assert {_death(message)["reason"] for message in buried} == {"expired"}


async def test_a_message_brings_its_own_expiration(channel: AbstractChannel, graveyard: AbstractQueue) -> None:
    await channel.declare_queue("work", durable=True, arguments=_DEAD_LETTERS)
    await channel.default_exchange.publish(Message(b"1", expiration=0.05), "work")
    buried = await (await inbox_of(graveyard)).one()
    assert buried.expiration is None
    assert _death(buried)["original-expiration"] == "50"


async def test_times_to_live_of_celerys_delay_queues_are_accepted(channel: AbstractChannel) -> None:
    """Its highest level waits 2**27 seconds."""
    await channel.declare_queue("delay", durable=True, arguments={**QUORUM, "x-message-ttl": 2**27 * 1000})


@pytest.mark.parametrize("expiration", ["soon", "-1", "9" * 40])
async def test_nonsense_expiration_is_406(channel: AbstractChannel, expiration: str) -> None:
    underlay = await channel.get_underlay_channel()
    with pytest.raises(ChannelPreconditionFailed):
        await underlay.basic_publish(
            b"", routing_key="q", properties=commands.Basic.Properties(expiration=expiration), wait=True
        )


async def test_retry_cycle_counts_its_rounds(channel: AbstractChannel) -> None:
    """A delay queue that feeds its work queue again: rejected, waits, comes back."""
    work = await channel.declare_queue(
        "work",
        durable=True,
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "delay"},
    )
    await channel.declare_queue(
        "delay",
        durable=True,
        arguments={"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work", "x-message-ttl": 20},
    )
    await publish_numbers(channel, "work", [1])
    inbox = await inbox_of(work)
    for round_number in range(3):
        message = await inbox.one()
        rejections = [death["count"] for death in _deaths(message) if death["reason"] == "rejected"]
        assert rejections == ([round_number] if round_number else [])
        await message.reject(requeue=False)


async def test_unused_queue_expires(channel: AbstractChannel) -> None:
    await channel.declare_queue("idle", arguments={"x-expires": 100})

    async def gone() -> bool:
        # A passive declaration would count as use: a copy bound to nothing tells nothing, a publish does.
        confirm = await channel.default_exchange.publish(Message(b""), "idle", mandatory=True)
        return type(confirm).__name__ == "DeliveredMessage"

    await until(gone)


@pytest.mark.parametrize("limit", [{"x-max-length": 10}, {"x-max-length-bytes": 30}], ids=["count", "bytes"])
async def test_overflow_drops_the_oldest(
    channel: AbstractChannel, graveyard: AbstractQueue, limit: dict[str, int]
) -> None:
    queue = await channel.declare_queue("bounded", durable=True, arguments={**_DEAD_LETTERS, **limit})
    for number in range(30):
        await channel.default_exchange.publish(Message(b"%03d" % number, delivery_mode=None), "bounded")
    length = await ready_count(channel, "bounded")
    kept = await (await inbox_of(queue)).take(length)
    dropped = await (await inbox_of(graveyard)).take(30 - len(kept))
    assert kept
    assert numbers([*dropped, *kept]) == list(range(30))
    assert {_death(message)["reason"] for message in dropped} == {"maxlen"}


async def test_slow_consumer_of_a_drop_head_queue_gets_the_newest(connect: Connect) -> None:
    """A front that stalls: its fan-out queue stays short, and what it gets afterwards ends with the newest."""
    front, publisher = await (await connect()).channel(), await (await connect()).channel()
    exchange = await publisher.declare_exchange("lanes", ExchangeType.DIRECT)
    await front.set_qos(prefetch_count=1)
    queue = await front.declare_queue(exclusive=True, arguments={"x-max-length": 5})
    await queue.bind(exchange, "lane")
    inbox = await inbox_of(queue)
    await exchange.publish(Message(b"0"), "lane")
    held = await inbox.one()
    for number in range(1, 100):
        await exchange.publish(Message(b"%d" % number), "lane")
    await held.ack()
    rest = []
    for _ in range(5):
        rest.append(await inbox.one())
        await rest[-1].ack()
    assert numbers(rest) == [95, 96, 97, 98, 99]


def _deaths(message: AbstractIncomingMessage) -> list[dict[str, object]]:
    return message.headers.get("x-death", [])  # pyright: ignore[reportReturnType] - the broker's own header


def _death(message: AbstractIncomingMessage) -> dict[str, object]:
    return _deaths(message)[0]
