"""The event hub, on the embedded broker and on RabbitMQ: lanes bound and unbound, and bound again after a cut."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from callboard_http.event_log import LegKey
from callboard_http.hub import EventHub, Subscription
from callboard_runtime.domain.event_batch import ORIGIN, EventId, batch
from callboard_runtime.domain.ids import lane_of
from callboard_runtime.embedded.amqp import EmbeddedBroker
from callboard_runtime.stream.lanes import LanePublisher
from services import TcpProxy
from waiting import until

from .http_harness import delta

LIMIT = 10_000


@pytest.fixture(params=["embedded", "rabbitmq"])
async def broker_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq_vhost_url").split("?")[0]
        return
    async with EmbeddedBroker() as broker:
        yield broker.url


@pytest.fixture
async def proxy(broker_url: str, tcp_proxy) -> TcpProxy:
    return await tcp_proxy(broker_url)


@pytest.fixture
async def hub(broker_url: str, proxy: TcpProxy) -> AsyncIterator[EventHub]:
    hub = EventHub(proxy.url(broker_url), "hub", idle_lane=0.05)
    await hub.start()
    yield hub
    await hub.close()


@pytest.fixture
async def lanes(broker_url: str, hub: EventHub) -> AsyncIterator[LanePublisher]:
    publisher = await LanePublisher.connect(broker_url, "publisher")
    yield publisher
    await publisher.close()


def key(session: uuid.UUID | None = None, leg: int = 1) -> LegKey:
    return LegKey(session or uuid.uuid4(), uuid.uuid4(), leg)


async def listen(hub: EventHub, leg: LegKey, limit: int = LIMIT) -> Subscription:
    subscription = Subscription(leg, limit)
    await hub.add(subscription)
    return subscription


async def test_a_subscription_is_told_whether_its_lane_was_heard_all_along(hub: EventHub):
    mine = key()
    first, second = Subscription(mine, LIMIT), Subscription(mine, LIMIT)
    assert not await hub.add(first)  # what was published while the lane was being bound went past
    assert await hub.add(second)


async def send(lanes: LanePublisher, leg: LegKey, seq: int, text: str = "x", closing: bool = False) -> None:
    await lanes.publish(leg.session_id, leg.run_id, leg.leg, batch(2, seq, [delta(text)]), EventId(2, seq - 1), closing)


async def test_a_subscription_gets_its_leg_in_order_and_nothing_else(hub: EventHub, lanes: LanePublisher):
    mine = key()
    same_session, same_run = key(mine.session_id), LegKey(mine.session_id, mine.run_id, 2)
    subscription, other = await listen(hub, mine), await listen(hub, same_session)
    for seq in range(1, 6):
        await send(lanes, same_session, seq)
        await send(lanes, same_run, seq)
        await send(lanes, mine, seq, closing=seq == 5)
    await until(lambda: subscription.newest == (2, 5) and other.newest == (2, 5))
    taken = [subscription.take() for _ in range(5)]
    assert [chunk and (chunk.first, chunk.previous, chunk.closing) for chunk in taken] == [
        (seq, EventId(2, seq - 1), seq == 5) for seq in range(1, 6)
    ]
    assert subscription.take() is None
    assert not subscription.look


async def test_too_much_is_dropped_whole_and_left_to_the_log(hub: EventHub, lanes: LanePublisher):
    leg = key()
    subscription = await listen(hub, leg, limit=150)
    for seq in range(1, 4):
        await send(lanes, leg, seq, "y" * 40)
    await until(lambda: subscription.newest == (2, 3))
    assert subscription.look
    left = list(iter(subscription.take, None))
    assert all(chunk.first > 1 for chunk in left)


async def test_a_poke_reaches_every_reader_of_the_session(hub: EventHub, lanes: LanePublisher):
    session = uuid.uuid4()
    readers = [await listen(hub, key(session)) for _ in range(3)]
    stranger = await listen(hub, key())
    await lanes.poke(session)
    await until(lambda: all(reader.look for reader in readers))
    assert not stranger.look


async def test_an_idle_lane_is_unbound_and_bound_again(hub: EventHub, lanes: LanePublisher):
    leg = key()
    hub.remove(await listen(hub, leg))
    await until(lambda: lane_of(leg.session_id) not in hub._lanes)
    again = await listen(hub, leg)
    await send(lanes, leg, 1)
    await until(lambda: again.newest == (2, 1))


async def test_after_a_cut_every_lane_is_bound_again_and_every_reader_looks(
    hub: EventHub, lanes: LanePublisher, proxy: TcpProxy
):
    legs = [key() for _ in range(8)]
    readers = [await listen(hub, leg) for leg in legs]
    await proxy.disconnect_all()
    late = key()
    readers.append(await listen(hub, late))  # while nobody knows whether the broker is there
    await until(lambda: hub.connected and all(reader.look for reader in readers[:8]))
    for leg in (*legs, late):
        await send(lanes, leg, 1)
    await until(lambda: all(reader.newest == (2, 1) for reader in readers))


async def test_a_hub_without_its_broker_waits_for_it(broker_url: str, proxy: TcpProxy, lanes: LanePublisher):
    await proxy.refuse()
    hub = EventHub(proxy.url(broker_url), "early")
    await hub.start(wait=0.05)
    assert not hub.connected
    leg = key()
    subscription = await listen(hub, leg)
    await proxy.accept()
    await until(lambda: hub.connected)
    assert subscription.look
    assert subscription.newest == ORIGIN
    await send(lanes, leg, 1)
    await until(lambda: subscription.newest == (2, 1))
    await hub.close()


async def test_a_silent_broker_keeps_no_reader_from_the_log(
    hub: EventHub, lanes: LanePublisher, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("callboard_http.hub.BIND_TIMEOUT", 0.1)
    mine = key()
    proxy.pause()
    async with asyncio.timeout(20):
        subscription = await listen(hub, mine)
    subscription.look = False
    proxy.resume()
    await until(lambda: subscription.look)  # now that it is bound: what was published before went past
    async with asyncio.timeout(20):
        while subscription.newest != (2, 1):
            await send(lanes, mine, 1)
            await asyncio.sleep(0.05)  # until the binding that was on its way is there
