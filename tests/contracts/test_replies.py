"""Replies to callers whose own connections stand, while the one that replies travel on does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import aio_pika
import pytest
from aio_pika.abc import AbstractIncomingMessage
from pydantic import SecretStr

from callboard_actors.publisher import ActorPublisher
from callboard_runtime.settings import Settings
from services import TcpProxy
from waiting import until


class Caller:
    """A reply queue, and what arrived there."""

    def __init__(self) -> None:
        self.queue = ""
        self.bodies: list[bytes] = []

    async def listen(self, connection: aio_pika.abc.AbstractConnection) -> None:
        queue = await (await connection.channel()).declare_queue(exclusive=True)
        self.queue = queue.name
        await queue.consume(self._take, no_ack=True)

    async def _take(self, message: AbstractIncomingMessage) -> None:
        self.bodies.append(message.body)


@pytest.fixture
async def caller(broker_url: str) -> AsyncIterator[Caller]:
    async with await aio_pika.connect(broker_url) as connection:
        caller = Caller()
        await caller.listen(connection)
        yield caller


@pytest.fixture
async def proxy(broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]) -> TcpProxy:
    """Before the connection of the publisher."""
    return await tcp_proxy(broker_url)


@pytest.fixture
async def publisher(broker_url: str, proxy: TcpProxy) -> AsyncIterator[ActorPublisher]:
    publisher = await ActorPublisher.connect(Settings(amqp_url=SecretStr(proxy.url(broker_url))), "actors")
    yield publisher
    await publisher.close()


async def test_replies_wait_for_the_connection(caller: Caller, proxy: TcpProxy, publisher: ActorPublisher) -> None:
    """Nobody would ask again before the caller's own timeout, and a worker would hold its run's slot for as long."""
    await proxy.refuse()
    await until(lambda: not publisher.connected, "a broken connection")
    for number in range(3):
        publisher.reply(caller.queue, f"c{number}", str(number).encode())
    await proxy.accept()
    await until(lambda: len(caller.bodies) == 3, "three replies")
    assert caller.bodies == [b"0", b"1", b"2"]


async def test_replies_that_died_with_their_connection_are_written_again(
    caller: Caller, proxy: TcpProxy, publisher: ActorPublisher
) -> None:
    publisher.reply(caller.queue, "c0", b"arrives")
    await until(lambda: caller.bodies, "a first reply")
    proxy.pause()
    publisher.reply(caller.queue, "c1", b"dies")
    await asyncio.sleep(0)  # it is handed to the socket, behind which nothing passes
    await proxy.disconnect_all()
    await until(lambda: not publisher.connected, "a broken connection")
    proxy.resume()
    await until(lambda: b"dies" in caller.bodies, "the reply")
