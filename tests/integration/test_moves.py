"""Partitions that move between channels and processes all the time, while connections are cut and commands flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import aio_pika
import pytest
from pydantic import SecretStr

import callboard_actors.app
from callboard_actors.app import ActorApp, build_broker
from callboard_actors.consumer import PartitionConsumer
from callboard_actors.ownership import Mailboxes
from callboard_actors.wiring import ActorProcess, actor_process
from callboard_runtime.broker import topology
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import ActorSettings, LlmSettings, Settings
from services import TcpProxy
from waiting import until


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, amqp_url: str) -> Settings:
    return Settings(
        database_url=SecretStr(postgres_url),
        amqp_url=SecretStr(amqp_url),
        redis_url=SecretStr(redis_url),
        redis_prefix=redis_prefix,
        llm=LlmSettings(default_model="scripted"),
        actors=ActorSettings(standby_delay=0.1),
    )


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[ActorProcess]:
    """An actor process that consumes every partition."""
    async with actor_process(settings) as process, AsyncExitStack() as stack:
        for duty in process.duties():
            task = asyncio.create_task(duty())
            stack.callback(task.cancel)
        await until(lambda: consumes_all(process.app), "consumers everywhere")
        yield process


async def consumes_all(app: ActorApp) -> bool:
    return app.connected and all([await item.consuming() for item in app.partitions])


async def consumers(amqp_url: str) -> list[int]:
    """How many consumers the broker knows of each partition."""
    async with await aio_pika.connect(amqp_url) as connection:
        channel = await connection.channel()
        names = map(topology.partition_queue, range(PARTITIONS))
        queues = [await channel.declare_queue(name, passive=True) for name in names]
    return [queue.declaration_result.consumer_count or 0 for queue in queues]


async def test_a_partition_that_is_lost_while_it_moves_moves_again(
    settings: Settings, embedded_amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its mailboxes take nothing any more: without another channel its commands would wait for ever."""
    rejoin, moved = PartitionConsumer.rejoin, list[int]()

    async def lost_at_once(item: PartitionConsumer) -> None:
        await rejoin(item)
        moved.append(item.partition)
        if len(moved) == 1:
            app._lost(item.partition)()

    monkeypatch.setattr(PartitionConsumer, "rejoin", lost_at_once)
    async with running(settings.model_copy(update={"amqp_url": SecretStr(embedded_amqp_url)})) as process:
        app = process.app
        app._move(7, "the test moves it")
        await until(lambda: not app._moves, "the end of the moves")
        assert moved == [7, 7]


async def test_a_connection_that_leads_nowhere_is_given_up(
    settings: Settings,
    embedded_amqp_url: str,
    tcp_proxy: Callable[[str], Awaitable[TcpProxy]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The broker's machine vanished while this process connected: the next try finds it well."""
    monkeypatch.setattr(callboard_actors.app, "CONNECT_TIMEOUT", 0.5)
    proxy = await tcp_proxy(embedded_amqp_url)
    async with running(settings.model_copy(update={"amqp_url": SecretStr(proxy.url(embedded_amqp_url))})) as process:
        everything = proxy.connections
        proxy.pause()
        await proxy.disconnect_all()
        await until(lambda: proxy.connections == everything, "as many connections as before")
        proxy.vanish()
        proxy.resume()
        await until(lambda: consumes_all(process.app), "consumers everywhere")


async def test_cuts_and_moves_at_the_same_time_leave_one_consumer_each(
    settings: Settings, amqp_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    """Both aio-pika's recovery and a move open a channel: each other's work must neither stop them nor be doubled."""
    proxy = await tcp_proxy(amqp_url)
    behind = settings.model_copy(update={"amqp_url": SecretStr(proxy.url(amqp_url))})
    async with running(behind) as process:
        app = process.app
        for _ in range(4):
            await proxy.disconnect_all()
            await until(lambda: not app.connected, "a broken connection")
            await until(lambda: app.connected, "a connection")
            for item in app.partitions:
                app._move(item.partition, "the test moves it")
            await until(lambda: not app._moves, "the end of the moves")
            await until(lambda: consumes_all(app), "consumers everywhere")
        assert await consumers(amqp_url) == [1] * PARTITIONS


async def test_a_partition_that_is_lost_while_the_process_stops_stays_away(
    settings: Settings, embedded_amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Consuming again after it was left, it would hold commands that nobody here carries out any more."""
    leave, rejoin, rejoined = PartitionConsumer.leave, PartitionConsumer.rejoin, list[int]()

    async def lose_them_all_then_leave(item: PartitionConsumer) -> None:
        for partition in range(PARTITIONS):
            app._lost(partition)()
        await leave(item)

    async def noted(item: PartitionConsumer) -> None:
        rejoined.append(item.partition)
        await rejoin(item)

    async with running(settings.model_copy(update={"amqp_url": SecretStr(embedded_amqp_url)})) as process:
        app = process.app
        monkeypatch.setattr(PartitionConsumer, "leave", lose_them_all_then_leave)
        monkeypatch.setattr(PartitionConsumer, "rejoin", noted)
    await asyncio.gather(*app._moves.values())
    assert rejoined == []
    assert not [item.partition for item in app.partitions if item.joined]


async def test_a_start_that_is_given_up_ends_though_the_database_goes_away_in_that_moment(
    settings: Settings, embedded_amqp_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that went on in place of ending would not hear the signal."""
    asked = asyncio.Event()

    async def outage_for_a_cancellation(*_: object) -> frozenset[str]:
        asked.set()
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise Unavailable("the database is away") from None

    monkeypatch.setattr(callboard_actors.app, "living_processes", outage_for_a_cancellation)
    engine = create_engine(settings)
    app = ActorApp(build_broker(embedded_amqp_url), engine, settings, "actors-me", no_mailboxes)
    starting = asyncio.create_task(app.start())
    await asked.wait()
    starting.cancel()
    await asyncio.wait([starting])
    await app.stop()
    await engine.dispose()
    assert starting.cancelled()


def no_mailboxes(partition: int, partition_epoch: int) -> Mailboxes:
    raise AssertionError(f"partition {partition} carries no commands here")
