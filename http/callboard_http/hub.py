"""Live batches for this process: one queue, one consumer, lanes bound while somebody listens.

In: lane messages.
Out: chunks in the bounded buffers of the subscriptions of their session; a wake-up whenever one must look at the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter, deque
from collections.abc import Mapping
from typing import Any

import aiormq.abc
from aio_pika.abc import AbstractConnection

from callboard_http.chunk import Chunk
from callboard_http.event_log import LegKey, SessionKey
from callboard_http.metrics import LAGGING_READERS
from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import BrokerLink, ConnectionGone, Line, gone_when_broken, open_channel
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.ids import lane_of
from callboard_runtime.errors import InvalidInput
from callboard_runtime.observe import tracing

logger = logging.getLogger(__name__)

IDLE_LANE = 60.0  # seconds a lane stays bound without subscribers
BIND_TIMEOUT = 5.0  # seconds; a broker that does not answer must not keep a reader from the log


class Subscription:
    """What arrives live for one leg, or all of a session, in order, until the reader takes it.

    It never holds more than `limit` bytes. When more arrives, everything is dropped and `look` is set: the reader finds
    it in the log.
    """

    __slots__ = ("_chunks", "_held", "_leg", "_limit", "_loop", "_waiter", "key", "look", "newest", "trace")

    def __init__(self, key: LegKey | SessionKey, limit: int) -> None:
        self.key = key
        self.look = False  # the log knows something that was not delivered here
        self.newest = ORIGIN  # last event that was published, delivered here or dropped
        self.trace: str | None = None  # what sent the first batch that arrived live, if it is traced
        self._leg = (str(key.run_id), key.leg) if isinstance(key, LegKey) else None  # None: all of them
        self._limit, self._held = limit, 0
        self._chunks: deque[Chunk] | None = None  # an empty one takes more room than all the rest
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None

    def offer(self, run: str, leg: int, chunk: Chunk) -> None:
        """Take in a chunk, unless it belongs to another leg."""
        if self._leg is not None and self._leg != (run, leg):
            return
        self.newest = max(self.newest, chunk.last)
        self._held += len(chunk.body)
        if self._held > self._limit:
            self._overflow()
        elif self._chunks is None:
            self._chunks = deque((chunk,))
        else:
            self._chunks.append(chunk)
        self._wake()

    def poke(self) -> None:
        """Have the reader look at the log."""
        self.look = True
        self._wake()

    def take(self) -> Chunk | None:
        """The next chunk, or None when there is none."""
        if not self._chunks:
            return None
        chunk = self._chunks.popleft()
        self._held -= len(chunk.body)
        if not self._chunks:
            self._chunks = None
        return chunk

    async def wait(self, seconds: float) -> bool:
        """Whether something came within `seconds`. One reader may wait at a time."""
        if not (self._chunks or self.look):
            self._waiter = self._loop.create_future()
            timer = self._loop.call_later(seconds, self._wake)
            try:
                await self._waiter
            finally:
                timer.cancel()
                self._waiter = None
        return bool(self._chunks or self.look)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _overflow(self) -> None:
        LAGGING_READERS.inc()
        self._chunks = None
        self._held = 0
        self.look = True


class EventHub:
    """Demultiplexes lane messages to subscriptions, by their headers alone."""

    def __init__(self, url: str, name: str, *, idle_lane: float = IDLE_LANE) -> None:
        self._link: BrokerLink[_Lanes] = BrokerLink(url, name, self._build)
        self._line: _Lanes | None = None
        self._idle_lane = idle_lane
        self._sessions: dict[str, set[Subscription]] = {}
        self._lanes: Counter[int] = Counter()
        self._unbinding: dict[int, asyncio.TimerHandle] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self, wait: float = 5) -> None:
        """Connect in the background; returns when connected or after `wait` seconds."""
        await self._link.start(wait)

    async def close(self) -> None:
        for timer in self._unbinding.values():
            timer.cancel()
        await self._link.close()

    @property
    def connected(self) -> bool:
        return self._link.current is not None

    async def add(self, subscription: Subscription) -> bool:
        """Deliver to it from now on; what was published before is in the log or the tail.

        Returns whether its lane was bound already: this front has heard of its session all along. While the broker is
        away, or silent for `BIND_TIMEOUT`, the subscription stays silent; it is poked when the broker is back and its
        lane is bound.
        """
        self._sessions.setdefault(str(subscription.key.session_id), set()).add(subscription)
        return await self._listen(lane_of(subscription.key.session_id))

    def remove(self, subscription: Subscription) -> None:
        session = str(subscription.key.session_id)
        others = self._sessions.get(session, set())
        others.discard(subscription)
        if not others:
            self._sessions.pop(session, None)
        self._leave(lane_of(subscription.key.session_id))

    def poke(self, session: str | None = None) -> None:
        """Have the readers of one session, or all of them, look at the log."""
        chosen = self._sessions.values() if session is None else [self._sessions.get(session, set())]
        for subscription in [one for group in chosen for one in group]:
            subscription.poke()

    async def _listen(self, lane: int) -> bool:
        self._lanes[lane] += 1
        if timer := self._unbinding.pop(lane, None):
            timer.cancel()
        if self._line is None:
            return False
        binding = self._line.bind(lane)
        if binding.done():
            return self.connected and not (binding.cancelled() or binding.exception())
        await asyncio.wait((binding,), timeout=BIND_TIMEOUT)
        if not binding.done():
            binding.add_done_callback(lambda _: self.poke())  # what was published in the meantime went past
        return False

    def _leave(self, lane: int) -> None:
        self._lanes[lane] -= 1
        if self._lanes[lane] <= 0 and lane not in self._unbinding:
            loop = asyncio.get_running_loop()
            self._unbinding[lane] = loop.call_later(self._idle_lane, self._forget_later, lane)

    def _forget_later(self, lane: int) -> None:
        task = asyncio.create_task(self._forget(lane))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _forget(self, lane: int) -> None:
        self._unbinding.pop(lane, None)
        if self._lanes[lane] > 0:
            return
        del self._lanes[lane]
        if self._line is not None:
            with contextlib.suppress(ConnectionGone):  # then the queue went with the connection
                await self._line.unbind(lane)

    async def _build(self, connection: AbstractConnection) -> _Lanes:
        line = _Lanes(await open_channel(connection, confirms=False))
        await line.open(self._receive)
        self._line = line  # from here on a new subscription binds its lane itself
        for lane in [lane for lane, listeners in self._lanes.items() if listeners > 0]:
            await asyncio.shield(line.bind(lane))
        self.poke()  # whatever was published in the meantime went past
        return line

    async def _receive(self, message: aiormq.abc.DeliveredMessage) -> None:
        headers: Mapping[str, Any] = message.header.properties.headers or {}
        subscriptions = self._sessions.get(_text(headers.get(topology.H_SESSION)))
        if not subscriptions:
            return
        if not message.body:
            self.poke(_text(headers.get(topology.H_SESSION)))
            return
        try:
            run, leg, chunk = _parse(headers, message.body)
        except (KeyError, ValueError, InvalidInput) as error:
            logger.warning("lane message dropped: %r", error, extra={"action": "lane_message_dropped"})
            return
        for subscription in subscriptions:
            subscription.offer(run, leg, chunk)
        if tracing.current is not None and (trace := headers.get(topology.H_TRACE)):
            for subscription in subscriptions:
                subscription.trace = subscription.trace or _text(trace)


class _Lanes(Line):
    """The process's queue on one channel, and the lanes that are bound to it."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        super().__init__(channel)
        self._queue = ""
        self._bindings: dict[int, asyncio.Task[None]] = {}

    async def open(self, receive: aiormq.abc.ConsumerCallback) -> None:
        await self.channel.exchange_declare(topology.LANE_EXCHANGE, exchange_type="direct", durable=True)
        declared = await self.channel.queue_declare(
            "", exclusive=True, auto_delete=True, arguments=dict(topology.FRONT_QUEUE_ARGUMENTS)
        )
        self._queue = str(declared.queue)
        await self.channel.basic_consume(self._queue, receive, no_ack=True)

    def bind(self, lane: int) -> asyncio.Task[None]:
        """Done when the lane is bound, whoever asked for it first; raises ConnectionGone: the next connection binds."""
        if lane not in self._bindings:
            self._bindings[lane] = asyncio.create_task(self._bind(lane))
            self._bindings[lane].add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._bindings[lane]

    async def unbind(self, lane: int) -> None:
        self._bindings.pop(lane, None)
        async with gone_when_broken():
            await self.channel.queue_unbind(self._queue, topology.LANE_EXCHANGE, str(lane))

    async def _bind(self, lane: int) -> None:
        try:
            async with gone_when_broken():
                await self.channel.queue_bind(self._queue, topology.LANE_EXCHANGE, str(lane))
        except ConnectionGone:
            self._bindings.pop(lane, None)
            raise


def _parse(headers: Mapping[str, Any], body: bytes) -> tuple[str, int, Chunk]:
    previous = EventId.parse(_text(headers[topology.H_PREVIOUS]))
    closing = bool(headers.get(topology.H_CLOSING))
    chunk = Chunk(int(headers[topology.H_EPOCH]), int(headers[topology.H_FIRST]), body, closing, previous)
    return _text(headers[topology.H_RUN]), int(headers[topology.H_LEG]), chunk


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
