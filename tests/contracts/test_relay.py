"""The outbox relay with a real database and Redis, on both brokers: what was committed is sent, whatever dies."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aio_pika
import orjson
import pytest
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import callboard_actors.publisher
from callboard_actors.publisher import ActorPublisher
from callboard_actors.relay import OutboxRelay
from callboard_actors.writes import OutboxItem
from callboard_runtime.broker import topology
from callboard_runtime.broker.topology_setup import declare_control_queue
from callboard_runtime.domain.event_batch import EventBatch, EventId, batch
from callboard_runtime.domain.ids import partition_of, task_id
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import ActorSettings, Settings
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore
from services import TcpProxy
from waiting import until

ME, OTHER = "actors-me", "actors-other"


class Stage:
    """A database with runs, a Redis, a broker, and relays on them."""

    def __init__(self, engine: AsyncEngine, tail: TailStore, broker_url: str, stack: AsyncExitStack) -> None:
        self.engine, self.tail, self.url, self._stack = engine, tail, broker_url, stack

    async def relay(self, process: str = ME, url: str | None = None, *, running: bool = True) -> OutboxRelay:
        # Processes here beat once, when they are written down: a busy machine must not declare them dead.
        settings = Settings(amqp_url=url or self.url, actors=ActorSettings(silent_after=600))
        publisher = await ActorPublisher.connect(settings, process)
        self._stack.push_async_callback(publisher.close)
        lanes = await LanePublisher.connect(url or self.url, process)
        self._stack.push_async_callback(lanes.close)
        await self.process(process, "actors")
        relay = OutboxRelay(self.engine, settings, process, publisher, lanes, self.tail)
        if running:
            task = asyncio.create_task(relay.run())
            self._stack.push_async_callback(_cancelled, task)
        return relay

    async def execute(self, statement: str, **values: object) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), values)

    async def scalar(self, statement: str, **values: object) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(statement), values)).scalar()

    async def process(self, name: str, kind: str, slots: int = 0) -> None:
        await self.execute(
            "INSERT INTO processes (id, kind, host, slots, beat_at)"
            " VALUES (:n, :k, 'h', :s, now() + interval '1 hour')",
            n=name,
            k=kind,
            s=slots,
        )

    async def run(self, user: str = "u", status: str = "queued") -> OutboxItem:
        """A run whose wake-up was committed."""
        session, run = uuid.uuid4(), uuid.uuid4()
        ids: dict[str, object] = {"s": session, "r": run, "u": user, "name": str(run)}
        await self.execute("INSERT INTO sessions (id, user_id, thread_id) VALUES (:s, :u, :name)", **ids)
        await self.execute(
            "INSERT INTO runs (id, user_id, client_run_id, session_id, agent_id, digest, input, config, status)"
            " VALUES (:r, :u, :name, :s, 'default', '', '{}', '{}', :status)",
            **ids,
            status=status,
        )
        return await self.outbox(
            OutboxItem(uuid.uuid4(), "wakeup", partition_of(session), session, run, user, {"leg": 1})
        )

    async def outbox(self, item: OutboxItem) -> OutboxItem:
        await self.execute(
            "INSERT INTO outbox (id, kind, partition, session_id, run_id, user_id, payload)"
            " VALUES (:id, :kind, :partition, :session, :run, :user, CAST(:payload AS jsonb))",
            id=item.id,
            kind=item.kind,
            partition=item.partition,
            session=item.session_id,
            run=item.run_id,
            user=item.user_id,
            payload=orjson.dumps(item.payload).decode(),
        )
        return item

    async def events(self, of: OutboxItem, lines: EventBatch, previous: EventId, *, closing: bool) -> OutboxItem:
        """Events committed to the log, with the order to publish them."""
        values = {"s": of.session_id, "r": of.run_id, "e": lines.epoch, "f": lines.first_seq, "l": lines.last_seq}
        await self.execute(
            "INSERT INTO event_segments (session_id, epoch, first_seq, last_seq, run_id, leg, closing, lines)"
            " VALUES (:s, :e, :f, :l, :r, 1, :c, :lines)",
            **values,
            c=closing,
            lines="\n".join(lines.lines),
        )
        payload = {"epoch": lines.epoch, "first_seq": lines.first_seq, "last_seq": lines.last_seq, "leg": 1}
        payload |= {"closing": closing, "previous": str(previous), "poke": False}
        item = OutboxItem(
            uuid.uuid4(), "events", of.partition, of.session_id, of.run_id, of.user_id, payload, lines.lines
        )
        return await self.outbox(item)

    async def age(self, seconds: float) -> None:
        """Let time pass for every row."""
        await self.execute("UPDATE outbox SET due_at = due_at - make_interval(secs => :s)", s=seconds)

    async def claim(self, item: OutboxItem, worker: str) -> uuid.UUID:
        """What the commit of StartRun does."""
        attempt = uuid.uuid4()
        await self.execute("DELETE FROM outbox WHERE id = :i", i=item.id)
        await self.execute("UPDATE runs SET status = 'running' WHERE id = :r", r=item.run_id)
        await self.execute(
            "INSERT INTO run_attempts (attempt_id, run_id, session_id, leg, epoch, process, started_at)"
            " VALUES (:a, :r, :s, 1, 1, :w, now() + interval '2 hours')",  # later than the worker's last beat
            a=attempt,
            r=item.run_id,
            s=item.session_id,
            w=worker,
        )
        return attempt

    async def listen(self, queue: str) -> Inbox:
        """What arrives in the workers' queue."""
        connection = await self._stack.enter_async_context(await aio_pika.connect(self.url))
        channel = await connection.channel()
        return await Inbox.of(await channel.get_queue(queue, ensure=False))

    async def lane(self, session: uuid.UUID) -> Inbox:
        connection = await self._stack.enter_async_context(await aio_pika.connect(self.url))
        channel = await connection.channel()
        await channel.declare_exchange(topology.LANE_EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(topology.LANE_EXCHANGE, topology.lane_key(session))
        return await Inbox.of(queue)

    async def control(self, process: str) -> Inbox:
        connection = await self._stack.enter_async_context(await aio_pika.connect(self.url))
        channel = await connection.channel()
        await channel.declare_exchange(topology.CONTROL_EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
        return await Inbox.of(await declare_control_queue(channel, process))


class Inbox:
    """Messages of one queue, as they come."""

    def __init__(self) -> None:
        self.messages: list[AbstractIncomingMessage] = []

    @classmethod
    async def of(cls, queue: AbstractQueue) -> Inbox:
        inbox = cls()

        async def take(message: AbstractIncomingMessage) -> None:
            inbox.messages.append(message)

        await queue.consume(take, no_ack=True)
        return inbox

    async def until(self, count: int) -> list[AbstractIncomingMessage]:
        await until(lambda: len(self.messages) >= count)
        return self.messages

    @property
    def tasks(self) -> list[object]:
        """The Celery task ids."""
        return [message.headers["id"] for message in self.messages]


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def task_of(item: OutboxItem) -> str:
    assert item.run_id
    return task_id(item.run_id, 1)


@pytest.fixture
async def stage(postgres_url: str, redis_url: str, redis_prefix: str, broker_url: str) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        engine = create_engine(postgres_url)
        stack.push_async_callback(engine.dispose)
        tail = TailStore.from_url(redis_url, redis_prefix)
        stack.push_async_callback(tail.close)
        yield Stage(engine, tail, broker_url, stack)


async def test_a_committed_wakeup_is_sent_from_memory_and_noted(stage: Stage) -> None:
    relay = await stage.relay()
    await stage.process("w", "worker", 5)
    item = await stage.run()
    inbox = await stage.listen(topology.WORKER_QUEUE)
    relay.committed([item])
    (message,) = await inbox.until(1)
    assert message.headers["task"] == "callboard.run_agent_task"
    assert inbox.tasks == [task_of(item)]
    assert orjson.loads(message.body)[0] == [str(item.session_id), str(item.run_id), "1"]
    query = "SELECT count(*) FROM outbox WHERE id = :i AND sends = 1 AND due_at > now()"
    await until(lambda: stage.scalar(query, i=item.id))


async def test_a_wakeup_that_its_process_forgot_is_sent_by_another(stage: Stage) -> None:
    await stage.process("w", "worker", 5)
    item = await stage.run()
    await stage.execute("UPDATE partitions SET owner = 'actors-dead' WHERE partition = :p", p=item.partition)
    await stage.age(5)
    await stage.relay()
    inbox = await stage.listen(topology.WORKER_QUEUE)
    await inbox.until(1)
    assert inbox.tasks == [task_of(item)]


async def test_rows_of_a_living_owner_are_left_to_it(stage: Stage) -> None:
    await stage.process("w", "worker", 5)
    await stage.process(OTHER, "actors")
    mine, others = await stage.run(), await stage.run()
    while others.partition == mine.partition:
        others = await stage.run()
    for item, owner in ((mine, ME), (others, OTHER)):
        await stage.execute("UPDATE partitions SET owner = :o WHERE partition = :p", o=owner, p=item.partition)
    await stage.age(5)
    relay = await stage.relay(running=False)
    inbox = await stage.listen(topology.WORKER_QUEUE)
    await relay._tick()  # pyright: ignore[reportPrivateUsage]
    await relay.stop()
    await inbox.until(1)
    assert inbox.tasks == [task_of(mine)]


async def test_an_unclaimed_wakeup_is_sent_again_with_growing_pauses(stage: Stage) -> None:
    relay = await stage.relay()
    await stage.process("w", "worker", 5)
    item = await stage.run()
    inbox = await stage.listen(topology.WORKER_QUEUE)
    relay.committed([item])
    pauses: list[float] = []
    for sends in (1, 2, 3):
        await inbox.until(sends)
        query = "SELECT extract(epoch FROM due_at - now()) FROM outbox WHERE id = :i AND sends = :n"
        await until(lambda q=query, n=sends: stage.scalar(q, i=item.id, n=n))
        pauses.append(float(await stage.scalar(query, i=item.id, n=sends)))
        await stage.age(pauses[-1])
    assert inbox.tasks[:3] == [task_of(item)] * 3
    assert pauses[0] <= 2 < pauses[1] <= 4 < pauses[2] <= 8


async def test_wakeups_are_bounded_by_free_slots_and_fair_between_users(stage: Stage) -> None:
    relay = await stage.relay()
    inbox = await stage.listen(topology.WORKER_QUEUE)
    many = [await stage.run("many") for _ in range(8)]
    one = await stage.run("one")
    relay.committed([*many, one])
    await stage.process("w1", "worker", 2)
    await stage.process("w2", "worker", 1)
    await inbox.until(3)
    assert task_of(one) in inbox.tasks[:2]
    sent = [item for item in (*many, one) if task_of(item) in inbox.tasks]
    await stage.claim(sent[0], "w1")
    # Several looks at the table later the claimed one still holds its slot, and so do the two unclaimed ones.
    rounds = relay._ticks  # pyright: ignore[reportPrivateUsage]
    await until(lambda: relay._ticks > rounds + 3)  # pyright: ignore[reportPrivateUsage]
    assert len(inbox.tasks) == 3
    await stage.execute("UPDATE runs SET status = 'succeeded' WHERE id = :r", r=sent[0].run_id)
    await inbox.until(4)
    assert len(set(inbox.tasks[:4])) == 4


async def test_a_broker_that_holds_its_confirmations_gets_no_more_than_the_free_slots(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one with an alarm does; looks at the table go on, and rows that nobody noted as sent become due again."""
    monkeypatch.setattr(callboard_actors.publisher, "CONFIRM_TIMEOUT", 60.0)
    async with TcpProxy.for_url(stage.url) as proxy:
        relay = await stage.relay(url=proxy.url(stage.url), running=False)
        await stage.process("w", "worker", 2)
        many = [await stage.run("many") for _ in range(6)]
        await relay._tick()  # pyright: ignore[reportPrivateUsage]
        proxy.pause()
        relay.committed(many)
        inbox = await stage.listen(topology.WORKER_QUEUE)
        for _ in range(3):
            await stage.age(5)
            await relay._tick()  # pyright: ignore[reportPrivateUsage]
        assert relay.dispatcher.unnoted == {item.id for item in many[:2]}
        assert sorted(relay.dispatcher.waiting.ids) == sorted(item.id for item in many[2:])
        proxy.resume()
        await inbox.until(2)
        await relay.stop()
        assert inbox.tasks == [task_of(item) for item in many[:2]]


async def test_the_end_of_a_run_frees_its_slot_at_once(stage: Stage) -> None:
    relay = await stage.relay(running=False)
    await stage.process("w", "worker", 1)
    inbox = await stage.listen(topology.WORKER_QUEUE)
    first, second = await stage.run(), await stage.run()
    await relay._tick()  # pyright: ignore[reportPrivateUsage]
    relay.committed([first, second])
    await inbox.until(1)
    end = await stage.events(first, batch(1, 1, [{"type": "RUN_FINISHED"}]), EventId(0, 0), closing=True)
    relay.committed([end])  # no look at the table in between
    await inbox.until(2)
    assert inbox.tasks == [task_of(first), task_of(second)]
    await relay.stop()


async def test_events_reach_tail_and_lane_in_order_and_the_row_goes(stage: Stage) -> None:
    relay = await stage.relay()
    run = await stage.run()
    shown = batch(3, 1, [{"type": "RUN_STARTED"}])
    await stage.tail.append(run.session_id, shown, committed=0, create=True)
    lane = await stage.lane(run.session_id)
    middle, end = batch(3, 2, [{"type": "CUSTOM", "n": 2}, {"type": "CUSTOM", "n": 3}]), batch(3, 4, [{"type": "END"}])
    items = [
        await stage.events(run, middle, EventId(3, 1), closing=False),
        await stage.events(run, end, EventId(3, 3), closing=True),
    ]
    relay.committed(items)
    first, last = await lane.until(2)
    assert first.body.decode().split("\n") == list(middle.lines)
    assert (last.headers[topology.H_CLOSING], last.headers[topology.H_PREVIOUS]) == (True, "3-3")
    await until(lambda: _gone(stage, items))
    kept = await stage.tail.read(run.session_id, EventId(3, 0), 3)
    assert kept is not None
    assert kept.lines == (*shown.lines, *middle.lines, *end.lines)


async def test_events_that_a_dead_process_left_are_published_from_the_log(stage: Stage) -> None:
    run = await stage.run()
    lane = await stage.lane(run.session_id)
    parts = [batch(2, seq, [{"type": "CUSTOM", "n": seq}]) for seq in (1, 2, 3)]
    items = [await stage.events(run, part, EventId(2, part.first_seq - 1), closing=False) for part in parts]
    await stage.age(5)
    await stage.relay()
    arrived = await lane.until(3)
    assert [message.body.decode() for message in arrived[:3]] == [line for part in parts for line in part.lines]
    await until(lambda: _gone(stage, items))


async def test_events_go_without_redis(stage: Stage, postgres_url: str) -> None:
    stage.tail = TailStore.from_url("redis://127.0.0.1:1", "nobody")
    relay = await stage.relay()
    run = await stage.run()
    lane = await stage.lane(run.session_id)
    item = await stage.events(run, batch(1, 1, [{"type": "RUN_FINISHED"}]), EventId(0, 0), closing=True)
    relay.committed([item])
    await lane.until(1)
    await until(lambda: _gone(stage, [item]))
    await stage.tail.close()


async def test_a_poke_and_a_control_message(stage: Stage) -> None:
    relay = await stage.relay()
    run = await stage.run()
    lane, control = await stage.lane(run.session_id), await stage.control("w1")
    base = (run.partition, run.session_id, run.run_id, run.user_id)
    poke = await stage.outbox(OutboxItem(uuid.uuid4(), "events", *base, {"poke": True}))
    cancel = {"process": "w1", "type": "cancel", "epoch": 4}
    told = await stage.outbox(OutboxItem(uuid.uuid4(), "control", *base, cancel))
    unheard = await stage.outbox(OutboxItem(uuid.uuid4(), "control", *base, cancel | {"process": "gone"}))
    relay.committed([poke, told, unheard])
    (poked,), (message,) = await lane.until(1), await control.until(1)
    assert (poked.body, poked.headers[topology.H_FIRST]) == (b"", 0)
    assert orjson.loads(message.body) == {"type": "cancel", "run_id": str(run.run_id), "epoch": 4}
    await until(lambda: _gone(stage, [poke, told, unheard]))


async def test_nothing_is_lost_while_the_broker_is_away(stage: Stage) -> None:
    async with TcpProxy.for_url(stage.url) as proxy:
        relay = await stage.relay(url=proxy.url(stage.url))
        await stage.process("w", "worker", 9)
        inbox, control = await stage.listen(topology.WORKER_QUEUE), await stage.control("w1")
        item = await stage.run()
        cancel = {"process": "w1", "type": "cancel", "epoch": 4}
        ids = (item.partition, item.session_id, item.run_id, item.user_id)
        told = await stage.outbox(OutboxItem(uuid.uuid4(), "control", *ids, cancel))
        await proxy.refuse()
        relay.committed([item, told])
        await until(lambda: len(relay.dispatcher.waiting) == 1)
        await stage.age(5)
        await proxy.accept()
        await inbox.until(1)
        await control.until(1)
        assert inbox.tasks[0] == task_of(item)


async def _gone(stage: Stage, items: list[OutboxItem]) -> bool:
    ids = [item.id for item in items]
    return await stage.scalar("SELECT count(*) FROM outbox WHERE id = ANY(:ids)", ids=ids) == 0
