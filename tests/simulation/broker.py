"""A simulated broker: queues with one active consumer, redelivery, lost and doubled messages, channels that close."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from types import SimpleNamespace
from typing import Any
from uuid import UUID

from aiormq import spec
from pamqp import frame
from pamqp.commands import Basic

from callboard_runtime.broker.commander import CommandClient, _ReplyLine  # pyright: ignore[reportPrivateUsage]
from callboard_runtime.broker.connection import ConnectionGone
from callboard_runtime.domain.ids import PARTITIONS
from simulation.processes import Process

HEARTBEAT = 3.0  # seconds of silence after which the broker closes a connection


@dataclass(eq=False)
class Message:
    body: bytes
    reply_to: str | None
    correlation_id: str | None
    acked: bool = False


@dataclass
class Delivered:
    """What a consumer gets of a message."""

    message: Message
    channel: Channel
    delivery_tag: int

    @property
    def body(self) -> bytes:
        return self.message.body

    @property
    def reply_to(self) -> str | None:
        return self.message.reply_to

    @property
    def correlation_id(self) -> str | None:
        return self.message.correlation_id


class Channel:
    """One consumer's channel; `is_closed` is what its process knows, `open` what the broker knows."""

    def __init__(self, broker: Broker, queue: Queue, process: Process, handle: Callable[[Delivered], None]) -> None:
        self.process, self.is_closed, self.open = process, False, True
        self.closed = asyncio.Event()
        self.unacked: dict[int, Message] = {}
        self.tag = 0
        self._broker, self._queue, self._handle = broker, queue, handle
        self._inbox: asyncio.Queue[Delivered | None] = asyncio.Queue()
        process.spawn(self._receive())

    def send(self, message: Message) -> None:
        self.tag += 1
        self.unacked[self.tag] = message
        self._inbox.put_nowait(Delivered(message, self, self.tag))

    def close_by_broker(self) -> None:
        """What was not acknowledged goes back to its place; the process hears of it when it can."""
        if self.open:
            self.open = False
            self._queue.give_back(self)
            self._inbox.put_nowait(None)

    async def close(self) -> None:
        self.is_closed = True
        await self.process.call(self.close_by_broker)

    async def _receive(self) -> None:
        while (delivered := await self._inbox.get()) is not None:
            await self.process.latency()
            await self.process.point()
            if not self.is_closed:
                self._handle(delivered)
        await self.process.point()
        self.is_closed = True
        self.closed.set()

    # what production's Acknowledger and its line use of a channel

    number = 1

    async def write(self, wire: bytes) -> None:
        await self.process.call(lambda: self._read(wire))

    def _read(self, wire: bytes) -> None:
        while wire:
            used, _, told = frame.unmarshal(wire)
            if isinstance(told, Basic.Ack):
                self._settle(told.delivery_tag or 0, told.multiple)
            elif isinstance(told, Basic.Nack):
                self._reject(told.delivery_tag or 0, told.requeue)
            wire = wire[used:]

    def _settle(self, last: int, multiple: bool) -> None:
        for tag in [tag for tag in self.unacked if tag == last or (multiple and tag < last)]:
            message = self.unacked.pop(tag)
            message.acked = True
            self._broker.on_ack(message)
        self._queue.pump()

    def _reject(self, tag: int, requeue: bool) -> None:
        if (message := self.unacked.pop(tag, None)) is not None and not requeue:
            self._broker.dead_letters.append(message)
        self._queue.pump()


@dataclass
class Queue:
    """First in, first out; the first of its consumers gets everything until its channel closes."""

    prefetch: int
    ready: deque[Message] = field(default_factory=deque)
    consumers: list[Channel] = field(default_factory=list)

    def pump(self) -> None:
        while self.consumers and self.ready and len(self.consumers[0].unacked) < self.prefetch:
            self.consumers[0].send(self.ready.popleft())

    def give_back(self, channel: Channel) -> None:
        if channel in self.consumers:
            self.consumers.remove(channel)
        self.ready.extendleft(reversed(channel.unacked.values()))
        channel.unacked.clear()
        self.pump()


class Broker:
    """Partition queues, reply queues, the workers' queue and their control exchange."""

    def __init__(self, chance: Random, prefetch: int) -> None:
        self.up = True
        self.doubles = self.loses = 0.0  # chances of a doubled command, of a confirmation or a transient message lost
        self.queues = [Queue(prefetch) for _ in range(PARTITIONS)]
        self.lines: dict[str, SimLine] = {}
        self.links: list[SimLink] = []
        self.workers: list[Any] = []  # SimWorker
        self.wakeups: deque[tuple[UUID, UUID, int]] = deque()
        self.dead_letters: list[Message] = []
        self.announced: set[tuple[UUID, UUID, str]] = set()  # message id, run, what became of it
        self.on_ack: Callable[[Message], None] = lambda _message: None
        self.chance = chance

    # -- commands ------------------------------------------------------------------------------------------------------

    def publish(self, partition: int, message: Message) -> None:
        if not self.up:
            raise ConnectionGone("the broker is away")
        copies = 2 if self.chance.random() < self.doubles else 1
        for _ in range(copies):
            copy = Message(message.body, message.reply_to, message.correlation_id)
            self.queues[partition].ready.append(copy)
        self.queues[partition].pump()

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        line = self.lines.get(reply_to)
        if line is not None:
            line.process.spawn(line.receive(correlation_id, body))

    # -- workers -------------------------------------------------------------------------------------------------------

    def wake(self, session_id: UUID, run_id: UUID, leg: int) -> None:
        if not self.up:
            raise ConnectionGone("the broker is away")
        if self.chance.random() < self.loses:
            return  # a lost wake-up changes nothing
        for _ in range(2 if self.chance.random() < self.doubles else 1):
            self.wakeups.append((session_id, run_id, leg))
        self.hand_out()

    def hand_out(self) -> None:
        """Wake-ups are acknowledged early: a worker that dies takes them with it."""
        while self.wakeups and (free := [worker for worker in self.workers if worker.room]):
            self.chance.choice(free).wake(*self.wakeups.popleft())

    def control(self, process: str, run_id: UUID, epoch: int) -> None:
        for worker in self.workers:
            if worker.process.name == process:
                worker.process.spawn(worker.told(run_id, epoch))

    def announce(self, message_id: UUID, run_id: UUID, name: str) -> None:
        if not self.up:
            raise ConnectionGone("the broker is away")
        self.announced.add((message_id, run_id, name))

    # -- faults --------------------------------------------------------------------------------------------------------

    def drop(self, process: Process) -> None:
        """Close every connection of a process."""
        for queue in self.queues:
            for channel in [channel for channel in queue.consumers if channel.process is process]:
                channel.close_by_broker()
        for link in [link for link in self.links if link.process is process]:
            link.cut()

    def stop(self) -> None:
        self.up = False
        for queue in self.queues:
            for channel in list(queue.consumers):
                channel.close_by_broker()
        for link in self.links:
            link.cut()


class SimLine(_ReplyLine):
    """Production's reply line over a simulated channel."""

    def __init__(self, link: SimLink, name: str) -> None:
        super().__init__(None, name)  # type: ignore[arg-type]
        self.process, self.gone = link.process, False
        self._link = link

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: spec.Basic.Properties,
        *,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        message = Message(body, properties.reply_to, properties.correlation_id)
        await self.process.call(lambda: self._publish(int(routing_key), message))
        if self.gone:
            raise ConnectionGone("the connection broke before the confirmation")

    def _publish(self, partition: int, message: Message) -> None:
        broker = self._link.broker
        if self.gone:
            raise ConnectionGone("the connection is gone")
        broker.publish(partition, message)
        if broker.chance.random() < broker.loses:
            self._link.cut()

    async def receive(self, correlation_id: str, body: bytes) -> None:
        await self.process.latency()
        await self.process.point()
        if not self.gone:
            properties = SimpleNamespace(correlation_id=correlation_id)
            self.on_reply(SimpleNamespace(header=SimpleNamespace(properties=properties), body=body))  # type: ignore[arg-type]


class SimLink:
    """Stands where `CommandClient` has its BrokerLink: connects again by itself."""

    def __init__(self, broker: Broker, process: Process) -> None:
        self.broker, self.process = broker, process
        self.current: SimLine | None = None
        self._up, self._lost = asyncio.Event(), asyncio.Event()
        self._number = 0
        broker.links.append(self)
        process.spawn(self._keep())

    async def line(self) -> SimLine:
        while self.current is None:
            await self._up.wait()
        return self.current

    def cut(self) -> None:
        line, self.current = self.current, None
        self._up.clear()
        if line is not None:
            self._lost.set()
            del self.broker.lines[line.reply_queue]
            line.gone = True
            line.lost()

    async def close(self) -> None:
        self.cut()

    async def _keep(self) -> None:
        while True:
            await self.process.point()
            if self.broker.up:
                self._number += 1
                self._lost.clear()
                self.current = SimLine(self, f"{self.process.name}-{self._number}")
                self.broker.lines[self.current.reply_queue] = self.current
                self._up.set()
                await self._lost.wait()
            await asyncio.sleep(0.1 + self.broker.chance.random() / 2)


def command_client(broker: Broker, process: Process) -> CommandClient:
    """Production's client, on the simulated broker."""
    client = CommandClient("amqp://simulated", process.name)
    client._link = SimLink(broker, process)  # type: ignore[assignment]
    return client
