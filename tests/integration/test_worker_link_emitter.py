"""An attempt's events through a real Redis and a broker's lane: order, windows, and the ways in which Redis fails."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import aio_pika
import pytest

from callboard_runtime.broker import topology
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventBatch, EventId, batch
from callboard_runtime.stream.emitter import EventEmitter, Leg
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailResult, TailStore

PATIENCE = 15.0
SESSION, RUN, EPOCH = uuid.UUID(int=5), uuid.UUID(int=6), 4
BEFORE = EventId(3, 17)
OPENING = batch(EPOCH, 1, [{"type": "RUN_STARTED"}, {"type": "STATE_SNAPSHOT"}])


class Reader:
    """A front's view of the lane, by event id."""

    def __init__(self) -> None:
        self.lines: dict[int, str] = {}
        self.previous: list[tuple[str, str]] = []  # (id of the first, id named as its predecessor)
        self._changed = asyncio.Condition()

    async def take(self, message: aio_pika.abc.AbstractIncomingMessage) -> None:
        headers, lines = message.headers, message.body.decode().split("\n")
        first = int(str(headers[topology.H_FIRST]))
        async with self._changed:
            self.lines |= {first + n: line for n, line in enumerate(lines)}
            self.previous.append((f"{headers[topology.H_EPOCH]}-{first}", str(headers[topology.H_PREVIOUS])))
            self._changed.notify_all()

    async def until(self, last: int) -> list[str]:
        """The lines, once number `last` is there."""
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: last in self.lines)
        return [self.lines[seq] for seq in sorted(self.lines)]


class World:
    """The services around one emitter, and what it called."""

    def __init__(self, store: TailStore, lanes: LanePublisher, reader: Reader) -> None:
        self.store, self.lanes, self.reader = store, lanes, reader
        self.fenced, self.wanted = asyncio.Event(), asyncio.Event()

    def emitter(self, window: float = 0.0, tail: GuardedTail | None = None) -> EventEmitter:
        emitter = EventEmitter(
            Leg(SESSION, RUN, 1, BEFORE),
            OPENING,
            tail=tail or GuardedTail(self.store),
            lanes=self.lanes,
            window=lambda: window,
        )
        emitter.attach(on_fenced=self.fenced.set, on_commit_wanted=self.wanted.set)
        return emitter

    async def stored(self) -> EventBatch | None:
        return await self.store.read(SESSION, ORIGIN, EPOCH)

    async def until_called(self, event: asyncio.Event) -> None:
        async with asyncio.timeout(PATIENCE):
            await event.wait()


@pytest.fixture
async def world(redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        store = TailStore.from_url(redis_url, redis_prefix)
        stack.push_async_callback(store.close)
        lanes = await LanePublisher.connect(embedded_amqp_url, "test")
        stack.push_async_callback(lanes.close)
        channel = await (await stack.enter_async_context(await aio_pika.connect(embedded_amqp_url))).channel()
        exchange = await channel.declare_exchange(topology.LANE_EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
        queue = await channel.declare_queue(exclusive=True)
        await queue.bind(exchange, topology.lane_key(SESSION))
        reader = Reader()
        await queue.consume(reader.take, no_ack=True)
        yield World(store, lanes, reader)


def custom(value: int) -> AguiEvent:
    return {"type": "CUSTOM", "name": "n", "value": value}


def delta(text: str) -> AguiEvent:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": text}


async def test_the_opening_goes_first_and_every_batch_names_the_one_before(world: World) -> None:
    emitter = world.emitter()
    await emitter.drain()
    for value in range(3):
        emitter.emit(custom(value))
        await emitter.drain()
    seen = await world.reader.until(5)
    assert seen[:2] == list(OPENING.lines)
    assert world.reader.previous == [("4-1", "3-17"), ("4-3", "4-2"), ("4-4", "4-3"), ("4-5", "4-4")]
    stored = await world.stored()
    assert stored is not None
    assert list(stored.lines) == seen


async def test_the_first_delta_goes_at_once_and_the_next_ones_together(world: World) -> None:
    emitter = world.emitter(window=3600)
    emitter.emit(delta("a"))
    assert '"delta":"a"' in (await world.reader.until(3))[-1]
    for text in "bcd":
        emitter.emit(delta(text))
    await asyncio.sleep(0)
    assert max(world.reader.lines) == 3, "the window is open"
    emitter.flush()
    assert '"delta":"bcd"' in (await world.reader.until(4))[-1]
    emitter.stop()


async def test_what_is_emitted_at_the_start_goes_with_the_opening(world: World) -> None:
    emitter = world.emitter(window=3600)
    emitter.emit(custom(1))
    assert await world.reader.until(3)
    assert world.reader.previous == [("4-1", "3-17")]
    emitter.stop()


@pytest.mark.parametrize("kind", ["TEXT_MESSAGE_START", "REASONING_MESSAGE_START"])
async def test_a_text_begins_at_once_with_its_first_delta_though_the_window_is_open(world: World, kind: str) -> None:
    emitter = world.emitter(window=3600)
    emitter.emit(custom(1))
    await world.reader.until(3)
    emitter.emit(custom(2))
    await asyncio.sleep(0)
    assert max(world.reader.lines) == 3, "the window is open"
    emitter.emit({"type": kind, "messageId": "m"})
    emitter.emit(delta("a"))
    emitter.emit(delta("b"))
    assert '"delta":"ab"' in (await world.reader.until(6))[-1]
    assert world.reader.previous[-1] == ("4-4", "4-3")
    emitter.stop()


async def test_pending_is_what_no_commit_has_acknowledged(world: World) -> None:
    emitter = world.emitter(window=3600)
    assert emitter.pending() is None
    emitter.emit(custom(1))
    emitter.emit(custom(2))
    pending = emitter.pending()
    assert pending is not None
    assert (pending.epoch, pending.first_seq, pending.last_seq) == (4, 3, 4)
    emitter.committed(3)
    emitter.emit(custom(3))
    pending = emitter.pending()
    assert pending is not None
    assert (pending.first_seq, pending.last_seq) == (4, 5)
    emitter.committed(5)
    assert emitter.pending() is None
    await world.reader.until(5)
    emitter.stop()


async def test_a_fenced_attempt_publishes_nothing_more(world: World) -> None:
    emitter = world.emitter()
    await emitter.drain()
    await world.store.fence(SESSION, 5)
    emitter.emit(custom(1))
    await world.until_called(world.fenced)
    emitter.emit(custom(2))
    emitter.committed(2)
    await emitter.drain()
    await world.lanes.poke(SESSION)
    await _until(lambda: ("0-0", "0-0") in world.reader.previous)
    assert sorted(key for key in world.reader.lines if key) == [1, 2]


async def test_who_waits_for_the_events_to_be_sent_is_not_cancelled_when_they_are_fenced(world: World) -> None:
    await world.store.fence(SESSION, 5)
    emitter = world.emitter()
    await emitter.drain()
    assert world.fenced.is_set()
    await emitter.drain()
    assert not world.reader.lines


async def test_who_waits_for_the_events_to_be_sent_goes_on_when_they_are_stopped(world: World) -> None:
    emitter = world.emitter()
    waiting = asyncio.create_task(emitter.drain(3600))
    await asyncio.sleep(0)
    emitter.stop()
    async with asyncio.timeout(PATIENCE):
        await waiting


async def test_after_a_loss_of_redis_it_waits_for_a_commit_and_begins_the_stream_anew(world: World) -> None:
    emitter = world.emitter()
    emitter.emit(custom(1))
    await emitter.drain()
    await world.store.delete(SESSION)
    emitter.emit(custom(2))
    await world.until_called(world.wanted)
    assert await world.stored() is None
    assert 4 not in world.reader.lines
    emitter.committed(3)
    await world.reader.until(4)
    stored = await world.stored()
    assert stored is not None
    assert (stored.first_seq, stored.last_seq) == (4, 4)
    emitter.emit(custom(3))
    await emitter.drain()
    stored = await world.stored()
    assert stored is not None
    assert stored.last_seq == 5


async def test_a_lagging_redis_gets_everything_that_is_not_committed(world: World) -> None:
    emitter = world.emitter()
    for value in range(3):
        emitter.emit(custom(value))
        await emitter.drain()
    stored = await world.stored()
    await world.store.delete(SESSION)
    await world.store.append(SESSION, OPENING, committed=0, create=True)
    emitter.emit(custom(3))
    await world.reader.until(6)
    again = await world.stored()
    assert stored is not None
    assert again is not None
    assert again.lines[:-1] == stored.lines
    assert again.last_seq == 6


async def test_without_redis_the_lane_goes_on(world: World) -> None:
    tail = GuardedTail(TailStore.from_url("redis://127.0.0.1:1/0", "nobody"))
    emitter = world.emitter(tail=tail)
    for value in range(3):
        emitter.emit(custom(value))
        await emitter.drain()
    assert len(await world.reader.until(5)) == 5
    pending = emitter.pending()
    assert pending is not None
    assert pending.last_seq == 5
    await tail.close()


async def test_a_redis_that_comes_back_is_filled_after_the_next_commit(world: World) -> None:
    class Switched(GuardedTail):
        away = True

        async def append(self, *args: object, **kwargs: object) -> TailResult | None:
            return None if self.away else await super().append(*args, **kwargs)  # type: ignore[arg-type]

    tail = Switched(world.store)
    emitter = world.emitter(tail=tail)
    emitter.emit(custom(1))
    await world.reader.until(3)
    tail.away = False
    emitter.emit(custom(2))
    await world.until_called(world.wanted)
    emitter.committed(3)
    await world.reader.until(4)
    stored = await world.stored()
    assert stored is not None
    assert stored.last_seq == 4


async def test_a_long_uncommitted_tail_asks_for_a_commit(world: World) -> None:
    emitter = world.emitter()
    for value in range(3):
        emitter.emit({"type": "CUSTOM", "name": str(value), "value": "x" * 100_000})
        await emitter.drain()
    assert world.wanted.is_set()


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - several sources of change
            await asyncio.sleep(0.01)
