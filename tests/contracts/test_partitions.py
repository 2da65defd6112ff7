"""Partitions shared by actor processes: one owner at a time, in order through every handover, on both brokers."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aio_pika
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.app import ActorApp, build_broker
from callboard_actors.partitions import assign
from callboard_actors.settle import Envelope
from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import ConnectionGone
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import ActorSettings, Settings
from services import TcpProxy
from waiting import until

PATIENCE = 40.0
SOME = (3, 17, 42)  # partitions that carry commands


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=20)
    async with engine.begin() as connection:
        await connection.execute(
            text("CREATE TABLE ledger (id bigserial, partition bigint, owner text, epoch bigint, body text)")
        )
    yield engine
    await engine.dispose()


class Ledger:
    """Mailboxes that commit what they get, in groups, to a table, under the fence that real commits are under."""

    def __init__(self, engine: AsyncEngine, owner: str, partition: int, epoch: int) -> None:
        self.lost = asyncio.Event()
        self._engine, self._owner, self._partition, self._epoch = engine, owner, partition, epoch
        self._waiting: deque[Envelope] = deque()
        self._wake, self._closing = asyncio.Event(), False
        self._task = asyncio.create_task(self._run())

    def put(self, envelope: Envelope) -> None:
        self._waiting.append(envelope)
        self._wake.set()

    async def close(self) -> None:
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while not self._closing:
            if not self._waiting:
                self._wake.clear()
                await self._wake.wait()
                continue
            group = [self._waiting.popleft() for _ in range(min(5, len(self._waiting)))]
            if not await self._commit(group):
                self.lost.set()
                return
            for envelope in group:
                envelope.delivery.ack()

    async def _commit(self, group: list[Envelope]) -> bool:
        async with self._engine.begin() as connection:
            fence = text("SELECT partition_epoch FROM partitions WHERE partition = :p FOR SHARE")
            if (await connection.execute(fence, {"p": self._partition})).scalar_one() != self._epoch:
                return False
            insert = text("INSERT INTO ledger (partition, owner, epoch, body) VALUES (:p, :o, :e, :b)")
            rows = [{"p": self._partition, "o": self._owner, "e": self._epoch, "b": e.body.decode()} for e in group]
            await connection.execute(insert, rows)
        return True


class World:
    """Actor processes on one broker and one database, and a publisher of numbered commands."""

    def __init__(self, url: str, engine: AsyncEngine, stack: AsyncExitStack) -> None:
        self.url, self.engine, self._stack = url, engine, stack
        self._numbers = dict.fromkeys(SOME, 0)
        self._channel: aio_pika.abc.AbstractChannel | None = None

    async def process(self, name: str, url: str | None = None) -> ActorApp:
        """A process that is in the list of the living and follows it."""
        actors = ActorSettings(standby_delay=0.2, prefetch=16)
        settings = Settings(amqp_url=f"{url or self.url}?heartbeat=10&reconnect_interval=1", actors=actors)
        make = lambda partition, epoch: Ledger(self.engine, name, partition, epoch)  # noqa: E731
        await self.live(name)
        app = ActorApp(build_broker(settings.required_amqp_url(), name), self.engine, settings, name, make)
        await app.start()
        running = asyncio.create_task(app.run())

        async def stop() -> None:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await app.stop()

        self._stack.push_async_callback(stop)
        return app

    async def live(self, name: str) -> None:
        await self.execute(
            "INSERT INTO processes (id, kind, host, beat_at) VALUES (:n, 'actors', 'h', now() + interval '1 hour')",
            n=name,
        )

    async def die(self, name: str) -> None:
        await self.execute("DELETE FROM processes WHERE id = :n", n=name)

    async def execute(self, statement: str, **values: object) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), values)

    async def rows(self, statement: str, **values: object) -> list[tuple[object, ...]]:
        async with self.engine.connect() as connection:
            return [tuple(row) for row in await connection.execute(text(statement), values)]

    async def connection(self) -> aio_pika.abc.AbstractConnection:
        return await self._stack.enter_async_context(await aio_pika.connect(self.url))

    async def publish(self, count: int) -> None:
        """`count` more commands to each of some partitions, numbered on."""
        if self._channel is None:
            self._channel = await (await self.connection()).channel()
        exchange = await self._channel.get_exchange(topology.SESSION_EXCHANGE, ensure=False)
        for partition in SOME:
            for _ in range(count):
                body = str(self._numbers[partition]).encode()
                await exchange.publish(aio_pika.Message(body, delivery_mode=2), str(partition))
                self._numbers[partition] += 1

    async def all_committed(self) -> None:
        """Wait until everything published is in the ledger; then it must be there in order."""
        counted = "SELECT partition, count(DISTINCT body) FROM ledger GROUP BY partition"
        await self.until(counted, lambda rows: dict(rows) == self._numbers)
        for partition in SOME:
            rows = await self.rows("SELECT body FROM ledger WHERE partition = :p ORDER BY id", p=partition)
            first_seen = list(dict.fromkeys(int(str(body)) for (body,) in rows))
            assert first_seen == list(range(self._numbers[partition])), f"partition {partition}"

    async def until(self, query: str, holds: Callable[[list[tuple[object, ...]]], bool]) -> None:
        async def held() -> bool:
            return holds(await self.rows(query))

        await until(held, query, timeout=PATIENCE)

    async def owners(self) -> dict[int, tuple[str, int]]:
        rows = await self.rows("SELECT partition, owner, partition_epoch FROM partitions WHERE owner IS NOT NULL")
        return {int(str(partition)): (str(owner), int(str(epoch))) for partition, owner, epoch in rows}


@pytest.fixture
async def world(broker_url: str, engine: AsyncEngine) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        yield World(broker_url, engine, stack)


async def test_a_partition_is_taken_when_its_first_command_arrives(world: World) -> None:
    app = await world.process("a")
    assert await world.owners() == {}
    await world.publish(20)
    await world.all_committed()
    assert await world.owners() == dict.fromkeys(SOME, ("a", 1))
    assert app.owned == set(SOME)


async def test_two_processes_share_and_each_keeps_the_order(world: World) -> None:
    apps = [await world.process("a"), await world.process("b")]

    async def settled() -> bool:
        return all([await item.consuming() for app in apps for item in app.partitions])

    await until(settled)
    await world.publish(5)
    await world.all_committed()
    favourites = assign(frozenset({"a", "b"}))

    async def with_favourites() -> bool:
        await world.publish(1)  # only commands show who is active
        await world.all_committed()
        return {p: owner for p, (owner, _) in (await world.owners()).items()} == {p: favourites[p] for p in SOME}

    await until(with_favourites)


async def test_a_newcomer_gets_its_share_while_commands_flow(world: World) -> None:
    await world.process("a")
    await world.publish(30)
    await world.process("b")
    await world.process("c")
    favourites = assign(frozenset({"a", "b", "c"}))

    async def moved() -> bool:
        await world.publish(5)
        return {p: owner for p, (owner, _) in (await world.owners()).items()} == {p: favourites[p] for p in SOME}

    await until(moved)
    await world.all_committed()


async def test_a_dead_process_is_replaced_with_a_higher_epoch(world: World) -> None:
    async with TcpProxy.for_url(world.url) as proxy:
        await world.process("a", proxy.url(world.url))
        await world.publish(40)
        await world.until("SELECT count(*) FROM ledger", lambda rows: int(str(rows[0][0])) > 0)
        await world.process("b")
        before = await world.owners()
        await world.die("a")
        await proxy.refuse()
        await world.publish(40)
        await world.all_committed()
        after = await world.owners()
        assert {owner for owner, _ in after.values()} == {"b"}
        assert all(after[p][1] > before[p][1] for p in before if before[p][0] == "a")


async def test_a_stopping_process_loses_and_reorders_nothing(world: World, broker_url: str) -> None:
    first = await world.process("a")
    await world.process("b")
    publishing = asyncio.create_task(world.publish(200))
    await world.until("SELECT count(*) FROM ledger", lambda rows: int(str(rows[0][0])) > 20)
    await first.stop()
    await world.die("a")
    await publishing
    await world.all_committed()


async def test_a_broken_connection_is_survived_in_order(world: World) -> None:
    async with TcpProxy.for_url(world.url) as proxy:
        app = await world.process("a", proxy.url(world.url))
        for _ in range(3):
            await world.publish(20)
            await proxy.disconnect_all()
        await world.publish(20)
        await world.all_committed()

        async def back() -> bool:
            return app.connected and all([await item.consuming() for item in app.partitions])

        await until(back)
        assert len(app.partitions) == PARTITIONS


async def test_an_owner_that_was_fenced_out_goes_to_the_end_of_the_line(world: World) -> None:
    await world.process("a")
    await world.publish(3)
    await world.all_committed()
    await world.execute("UPDATE partitions SET partition_epoch = partition_epoch + 1, owner = 'someone'")
    await world.publish(3)
    await world.all_committed()
    owners = await world.owners()
    assert {owners[p] for p in SOME} == {("a", 3)}


async def test_a_consumer_that_the_broker_forgot_is_set_up_again(world: World) -> None:
    app = await world.process("a")
    connection = await world.connection()
    admin = await connection.channel()
    await admin.queue_delete(topology.partition_queue(SOME[0]))
    await app._probe()  # pyright: ignore[reportPrivateUsage] - else it takes a quarter of a minute

    async def consumed() -> bool:
        try:
            async with await connection.channel() as looking:
                queue = await looking.declare_queue(topology.partition_queue(SOME[0]), passive=True)
                return bool(queue.declaration_result.consumer_count)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False

    await until(consumed)
    await world.publish(3)
    await world.all_committed()


async def test_a_move_that_fails_half_way_is_made_good(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks while a channel is being closed, and aio-pika brings the consumer back by itself."""
    app = await world.process("a")
    await world.publish(3)
    await world.all_committed()
    item = app.partitions[SOME[0]]

    async def broken(*_: object) -> None:
        raise ConnectionError("the connection was closed")

    with monkeypatch.context() as patched:
        patched.setattr(type(item._consumed.channel), "close", broken)  # type: ignore[union-attr]
        with pytest.raises(ConnectionGone):
            await item.rejoin()
    await world.publish(3)
    await world.all_committed()
