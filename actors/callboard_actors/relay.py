"""Sends what was committed to the outbox: at once from memory, later from the table if that was lost.

In:  outbox items just committed by this process, and due rows of the partitions it answers for
Out: wake-ups to the workers' queue, event batches to the Redis tail and the lanes, control messages,
     and what integrations are told

Everything here may be sent twice and changes nothing the second time. For each partition one living process polls: its
owner, or the favourite if the owner is dead.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol
from uuid import UUID

import aio_pika
import orjson
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.dispatch import Dispatcher, Wakeup, read_capacity
from callboard_actors.integration import Announcer
from callboard_actors.metrics import OUTBOX_SENT
from callboard_actors.ownership import living_processes, partition_owners
from callboard_actors.partitions import assign
from callboard_actors.writes import OutboxItem
from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import is_real_cancellation
from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.entry.wakeup import wakeup_message
from callboard_runtime.errors import CallboardError, Unavailable
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import HEADER
from callboard_runtime.persistence.database import connect, transaction
from callboard_runtime.settings import Settings
from callboard_runtime.stream.tail import TailResult

logger = logging.getLogger(__name__)

TICK, BUSY_TICK = 1.0, 0.25  # seconds between two looks at the table; while wake-ups wait for slots
UNSENT_AFTER = 2.0  # seconds after which a row counts as forgotten by the process that committed it
FIRST_RESEND, LONGEST_RESEND = 2, 60  # seconds until an unclaimed wake-up is sent again
BATCH = 500  # rows of one poll
ENOUGH = 500  # wake-ups in memory that make reading more pointless
RECONCILE = 20  # ticks between two looks at what memory holds and the table no longer does
REDIS_PAUSE = 1.0  # seconds without Redis after it failed
SESSIONS_AT_ONCE = 64
DRAIN = 5.0  # seconds to send what is under way at shutdown


class Publisher(Protocol):
    async def confirmed(
        self, exchange: str, routing_key: str, message: aio_pika.Message, *, mandatory: bool
    ) -> None: ...


class Lanes(Protocol):
    async def publish(
        self, session_id: UUID, run_id: UUID, leg: int, batch: EventBatch, previous: EventId, closing: bool = False
    ) -> None: ...
    async def poke(self, session_id: UUID, run_id: UUID = ...) -> None: ...


class Tail(Protocol):
    async def append(self, session_id: UUID, batch: EventBatch, *, committed: int, create: bool) -> TailResult: ...


# Each user's oldest first, so that one user's backlog does not fill the batch.
_DUE_WAKEUPS = text("""
SELECT id, kind, partition, session_id, run_id, user_id, payload FROM (
  SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY created_at) AS turn FROM outbox
  WHERE kind = 'wakeup' AND partition = ANY(:partitions)
    AND due_at <= now() - make_interval(secs => CASE WHEN sends = 0 THEN :unsent_after ELSE 0 END)
) due ORDER BY turn, created_at LIMIT :batch
""")

_DUE_OTHERS = text("""
SELECT id, kind, partition, session_id, run_id, user_id, payload FROM outbox
WHERE kind <> 'wakeup' AND partition = ANY(:partitions)
  AND due_at <= now() - make_interval(secs => CAST(:unsent_after AS float8))
ORDER BY created_at, (payload->>'epoch')::bigint, (payload->>'first_seq')::bigint LIMIT :batch
""")

# Rows that an actor's commit holds are skipped, never waited for: so nobody can wait for us in a circle.
_NOTE_SENT = text("""
UPDATE outbox SET sends = sends + 1, due_at = now() + make_interval(secs => least(:longest, :first * power(2, sends)))
WHERE id IN (SELECT id FROM outbox WHERE id = ANY(:ids) FOR UPDATE SKIP LOCKED)
""")

_DELETE = text("DELETE FROM outbox WHERE id IN (SELECT id FROM outbox WHERE id = ANY(:ids) FOR UPDATE SKIP LOCKED)")

_STILL_THERE = text("SELECT id FROM outbox WHERE id = ANY(:ids)")

_LINES = text("""
SELECT lines FROM event_segments WHERE session_id = :session_id AND epoch = :epoch AND first_seq = :first_seq
""")


class OutboxRelay:
    """One process's relay. `committed` feeds it; `run` polls; `stop` sends what is under way and notes it."""

    def __init__(
        self, engine: AsyncEngine, settings: Settings, process: str, publisher: Publisher, lanes: Lanes, tail: Tail
    ) -> None:
        self._engine, self._settings, self._process = engine, settings.actors, process
        self._publisher = publisher
        self.dispatcher = Dispatcher(self._wake)
        self._events = EventSender(engine, lanes, tail, self._done)
        self._announcer = Announcer(publisher, self._done)
        self._sent: set[UUID] = set()  # sent, to be deleted
        self._controls: dict[UUID, asyncio.Task[None]] = {}
        self._ticks = 0
        self._workers = False  # whether any lives

    def committed(self, items: Sequence[OutboxItem]) -> None:
        """Send items whose commit has just succeeded; never blocks."""
        self._accept(items)
        closings = sum(1 for item in items if item.kind == "events" and item.payload.get("closing"))
        if closings:
            self.dispatcher.released(closings)

    async def run(self) -> None:
        """Poll until cancelled; outages are waited out."""
        while True:
            try:
                await self._tick()
            except Unavailable as error:
                logger.info("the outbox waits: %s", error, extra={"action": "outbox_waits"})
            except Exception:
                logger.exception("polling the outbox failed", extra={"action": "outbox_failed"})
            if is_real_cancellation():  # an outage in the same moment must not hide it
                raise asyncio.CancelledError
            await asyncio.sleep(BUSY_TICK if self._workers and self.dispatcher.waiting else TICK)

    async def stop(self) -> None:
        """Finish what is under way, within a few seconds, and note it; the rest stays in the table for others."""
        try:
            async with asyncio.timeout(DRAIN):
                await self.dispatcher.settle()
                await self._events.settle()
                await self._announcer.settle()
                await asyncio.gather(*self._controls.values(), return_exceptions=True)
                await self._write_notes()
        except (Unavailable, TimeoutError) as error:
            logger.info("the outbox is left as it is: %r", error, extra={"action": "outbox_left"})

    async def _tick(self) -> None:
        await self._write_notes()
        capacity = await read_capacity(self._engine, self._settings.silent_after)
        self._workers = capacity.total > 0
        self.dispatcher.refresh(capacity)
        partitions = await self._answering_for()
        reconcile = self._ticks % RECONCILE == 0
        self._ticks += 1
        self._accept(await self._read(_DUE_OTHERS, partitions))
        if reconcile or len(self.dispatcher.waiting) < ENOUGH:
            self._accept(await self._read(_DUE_WAKEUPS, partitions))
        if reconcile:
            await self._forget_deleted()

    def _accept(self, items: Iterable[OutboxItem]) -> None:
        wakeups: list[Wakeup] = []
        for item in items:
            if item.kind == "wakeup" and item.run_id is not None:
                leg, trace = int(item.payload["leg"]), item.payload.get(HEADER)
                wakeups.append(Wakeup(item.id, item.user_id, item.session_id, item.run_id, leg, trace))
            elif item.kind == "events":
                self._events.add(item)
            elif item.kind == "control":
                self._control(item)
            elif item.kind == "integration":
                self._announcer.add(item)
        self.dispatcher.offer(wakeups)

    async def _answering_for(self) -> list[int]:
        living = await living_processes(self._engine, "actors", self._settings.silent_after) | {self._process}
        owners, favourites = await partition_owners(self._engine), assign(living)
        return [
            partition
            for partition, owner in enumerate(owners)
            if self._process == (owner if owner in living else favourites[partition])
        ]

    async def _read(self, statement: Any, partitions: list[int]) -> list[OutboxItem]:
        values = {"partitions": partitions, "unsent_after": UNSENT_AFTER, "batch": BATCH}
        async with connect(self._engine) as connection:
            rows = (await connection.execute(statement, values)).all()
        items = [
            OutboxItem(row.id, row.kind, row.partition, row.session_id, row.run_id, row.user_id, row.payload)
            for row in rows
        ]
        known = self._sent | self.dispatcher.unnoted
        return [item for item in items if item.id not in known]

    async def _forget_deleted(self) -> None:
        """Wake-ups of runs that ended meanwhile need not be sent."""
        ids = self.dispatcher.waiting.ids
        async with connect(self._engine) as connection:
            there = set((await connection.execute(_STILL_THERE, {"ids": ids})).scalars())
        for gone in set(ids) - there:
            self.dispatcher.waiting.discard(gone)

    async def _write_notes(self) -> None:
        woken, sent = self.dispatcher.take_unwritten(), list(self._sent)
        if not woken and not sent:
            return
        try:
            async with transaction(self._engine) as connection:
                back_off = {"first": FIRST_RESEND, "longest": LONGEST_RESEND}
                await connection.execute(_NOTE_SENT, {"ids": woken, **back_off})
                await connection.execute(_DELETE, {"ids": sent})
        except BaseException:
            self.dispatcher.give_back(woken)
            raise
        self._sent.difference_update(sent)

    def _done(self, item: OutboxItem) -> None:
        self._sent.add(item.id)
        OUTBOX_SENT.labels(item.kind).inc()

    async def _wake(self, wakeup: Wakeup) -> None:
        with tracing.span("send wake-up", kind="producer", parent=wakeup.trace) as span:
            message = wakeup_message(wakeup.session_id, wakeup.run_id, wakeup.leg, span.traceparent)
            await self._publisher.confirmed(topology.WORKER_EXCHANGE, topology.WORKER_QUEUE, message, mandatory=True)
        OUTBOX_SENT.labels("wakeup").inc()

    def _control(self, item: OutboxItem) -> None:
        if item.id not in self._controls and item.id not in self._sent:
            task = self._controls[item.id] = asyncio.create_task(self._tell(item))
            task.add_done_callback(lambda _: self._controls.pop(item.id, None))

    async def _tell(self, item: OutboxItem) -> None:
        payload = item.payload
        body = orjson.dumps({"type": payload["type"], "run_id": str(item.run_id), "epoch": payload["epoch"]})
        message = aio_pika.Message(body, content_type="application/json")
        try:
            # Nobody there is no error: a worker that is gone needs no telling.
            await self._publisher.confirmed(
                topology.CONTROL_EXCHANGE, str(payload["process"]), message, mandatory=False
            )
        except CallboardError as error:
            logger.info("a control message waits: %s", error, extra={"action": "control_waits"})
        else:
            self._done(item)


class EventSender:
    """Committed events to Redis and the lanes: in order per session, sessions side by side."""

    def __init__(self, engine: AsyncEngine, lanes: Lanes, tail: Tail, done: Callable[[OutboxItem], None]) -> None:
        self._engine, self._lanes, self._tail, self._done = engine, lanes, tail, done
        self._waiting: dict[UUID, deque[OutboxItem]] = {}
        self._ids: set[UUID] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._gate = asyncio.Semaphore(SESSIONS_AT_ONCE)
        self._redis_again = 0.0

    def add(self, item: OutboxItem) -> None:
        """Send an item behind the earlier ones of its session; one that is there already is not added again."""
        if item.id in self._ids:
            return
        self._ids.add(item.id)
        queue = self._waiting.get(item.session_id)
        if queue is not None:
            queue.append(item)
            return
        self._waiting[item.session_id] = deque([item])
        task = asyncio.create_task(self._drain(item.session_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def settle(self) -> None:
        """Wait until everything added so far was sent or given up."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def _drain(self, session_id: UUID) -> None:
        queue = self._waiting[session_id]
        async with self._gate:
            while queue:
                item = queue.popleft()
                try:
                    await self._send(item)
                    self._done(item)
                except CallboardError as error:
                    logger.info("events wait: %s", error, extra={"action": "events_wait"})
                except Exception:
                    logger.exception("events could not be sent", extra={"action": "events_failed"})
                finally:
                    self._ids.discard(item.id)
        del self._waiting[session_id]

    async def _send(self, item: OutboxItem) -> None:
        run_id = item.run_id or UUID(int=0)
        if item.payload.get("poke"):
            await self._lanes.poke(item.session_id, run_id)
        if "first_seq" in item.payload and (batch := await self._batch(item)) is not None:
            await self._append(item.session_id, batch)
            previous = EventId.parse(item.payload["previous"])
            closing = bool(item.payload["closing"])
            leg = int(item.payload["leg"])
            with tracing.continued(item.payload.get(HEADER)):
                await self._lanes.publish(item.session_id, run_id, leg, batch, previous, closing)

    async def _batch(self, item: OutboxItem) -> EventBatch | None:
        """The item's events, from memory or the log; None if the session was deleted meanwhile."""
        epoch, first = int(item.payload["epoch"]), int(item.payload["first_seq"])
        lines: Sequence[str] = item.lines
        if not lines:
            key = {"session_id": item.session_id, "epoch": epoch, "first_seq": first}
            async with connect(self._engine) as connection:
                stored = (await connection.execute(_LINES, key)).scalar_one_or_none()
            lines = stored.split("\n") if stored else ()
        return EventBatch(epoch=epoch, first_seq=first, lines=tuple(lines)) if lines else None

    async def _append(self, session_id: UUID, batch: EventBatch) -> None:
        """Into the tail, if Redis has one: these events are in the log, so that nobody needs them there."""
        now = asyncio.get_running_loop().time()
        if now < self._redis_again:
            return
        try:
            await self._tail.append(session_id, batch, committed=batch.last_seq, create=False)
        except (RedisError, OSError, TimeoutError) as error:
            self._redis_again = now + REDIS_PAUSE
            logger.warning("events go without Redis: %s", error, extra={"action": "redis_away"})
