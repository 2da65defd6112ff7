"""Control messages to one worker process, on both brokers."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable

import aio_pika
import orjson

from callboard_runtime.broker import topology
from callboard_runtime.entry.control import ControlConsumer
from services import TcpProxy
from waiting import until

RUN = uuid.UUID(int=3)


async def tell(url: str, process: str, *bodies: bytes) -> None:
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.CONTROL_EXCHANGE)
        for body in bodies:
            await exchange.publish(aio_pika.Message(body), process, mandatory=False)


def cancel(epoch: int) -> bytes:
    return orjson.dumps({"type": "cancel", "run_id": str(RUN), "epoch": epoch})


async def test_a_process_hears_its_own_messages_and_no_others(broker_url: str) -> None:
    heard: list[tuple[uuid.UUID, int]] = []
    others: list[tuple[uuid.UUID, int]] = []
    mine = await ControlConsumer.connect(broker_url, "w1", lambda *told: heard.append(told))
    other = await ControlConsumer.connect(broker_url, "w2", lambda *told: others.append(told))
    await tell(broker_url, "w1", cancel(1), cancel(2))
    await until(lambda: len(heard) == 2)
    assert heard == [(RUN, 1), (RUN, 2)]
    assert others == []
    await mine.close()
    await other.close()


async def test_what_cannot_be_read_is_ignored(broker_url: str) -> None:
    heard: list[tuple[uuid.UUID, int]] = []
    control = await ControlConsumer.connect(broker_url, "w1", lambda *told: heard.append(told))
    await tell(broker_url, "w1", b"{", b'{"type":"dance"}', b"\xff", cancel(3))
    await until(lambda: heard)
    assert heard == [(RUN, 3)]
    await control.close()


async def test_it_listens_again_after_a_frozen_connection_is_replaced(
    broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    heard: list[tuple[uuid.UUID, int]] = []
    proxy = await tcp_proxy(broker_url)
    control = await ControlConsumer.connect(proxy.url(broker_url), "w1", lambda *told: heard.append(told))
    await proxy.disconnect_all()
    await until(lambda: not control.connected)
    await until(lambda: control.connected)
    await tell(broker_url, "w1", cancel(4))
    await until(lambda: heard)
    await control.close()
