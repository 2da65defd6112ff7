"""A simulated actor process: production's mailboxes, owners and acknowledgements; its relay and sweeper in short."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from redis.exceptions import RedisError

from callboard_actors.acks import AckLine, Acknowledger
from callboard_actors.consumer import AmqpDelivery
from callboard_actors.groups import Groups, Services
from callboard_actors.mailbox import PartitionMailboxes
from callboard_actors.ownership import PartitionOwner
from callboard_actors.settle import Envelope
from callboard_actors.writes import OutboxItem, Row
from callboard_runtime.broker.connection import ConnectionGone
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.domain.state_snapshot import OPEN_CALLS, StateSnapshot
from callboard_runtime.errors import Unavailable
from simulation.broker import Channel, Delivered, command_client
from simulation.memory_reads import Database, MemoryStore
from simulation.processes import Process
from simulation.store import Tables
from simulation.tail import SimLanes, SimTail

if TYPE_CHECKING:
    from simulation.world import World

UNSENT_AFTER = 2.0  # seconds
LIVE = ("running", "cancelling")


class SimActor:
    """One process that owns partitions as the broker hands them over."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.process = world, Process(name, world.chance)
        self.db = Database(world.tables, world.database, self.process)
        self.tail, self.lanes = SimTail(world.streams, self.process), SimLanes(world.streams, self.process)
        store = MemoryStore(self.db, world.settings, self.tail)
        self.groups = Groups(Services(store, world.settings, self, self.committed))
        self.commands = command_client(world.broker, self.process)
        self.partitions = [Partition(self, number) for number in world.partitions]
        for work in (self._beat(), self._relay(), self._sweep(), *(item.keep() for item in self.partitions)):
            self.process.spawn(work)

    async def take(self, partition: int) -> int:
        return await self.db.ask(lambda tables: tables.take(partition))

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        self.world.replied[correlation_id] = c.decode_reply(body)
        self.process.spawn(self.process.call(lambda: self.world.broker.reply(reply_to, correlation_id, body)))

    async def _beat(self) -> None:
        while True:
            with Quiet():
                await self.db.ask(lambda tables: tables.beats.update({self.process.name: (self.world.now(), ())}))
            await asyncio.sleep(1)

    # -- outbox --------------------------------------------------------------------------------------------------------

    def committed(self, items: Sequence[OutboxItem]) -> None:
        for item in items:
            self.process.spawn(self._send(self.world.tables.rows["outbox"].get((item.id,))))

    async def _relay(self) -> None:
        while True:
            with Quiet():
                for row in await self.db.ask(self._due):
                    await self._send(row)
            await asyncio.sleep(1)

    def _due(self, tables: Tables) -> list[Row]:
        old = self.world.now() - timedelta(seconds=UNSENT_AFTER)
        return [row for row in tables.of("outbox") if row["created_at"] < old and row.get("due_at", old) <= old]

    async def _send(self, row: Row | None) -> None:
        if row is None:
            return
        with Quiet():
            await getattr(self, f"_send_{row['kind']}")(row)

    async def _send_wakeup(self, row: Row) -> None:
        ids = (row["session_id"], row["run_id"], row["payload"]["leg"])
        await self.process.call(lambda: self.world.broker.wake(*ids))
        await self.db.ask(lambda _: row.update(due_at=self.world.now() + timedelta(seconds=2)))

    async def _send_events(self, row: Row) -> None:
        payload = row["payload"]
        if "first_seq" in payload:
            place = (row["session_id"], payload["epoch"], payload["first_seq"])
            segment = await self.db.ask(lambda tables: tables.rows["event_segments"].get(place))
            if segment is not None:
                await self._publish(row, segment)
        await self._done(row)

    async def _publish(self, row: Row, segment: Row) -> None:
        lines = tuple(segment["lines"].split("\n"))
        batch = EventBatch(epoch=segment["epoch"], first_seq=segment["first_seq"], lines=lines)
        with Quiet():
            await self.tail.append(row["session_id"], batch, committed=batch.last_seq, create=False)
        previous = EventId.parse(row["payload"]["previous"])
        await self.lanes.publish(row["session_id"], row["run_id"], segment["leg"], batch, previous)

    async def _send_control(self, row: Row) -> None:
        payload = row["payload"]
        told = (payload["process"], row["run_id"], payload["epoch"])
        await self.process.call(lambda: self.world.broker.control(*told))
        await self._done(row)

    async def _send_integration(self, row: Row) -> None:
        await self.process.call(lambda: self.world.broker.announce(row["id"], row["run_id"], row["payload"]["name"]))
        await self._done(row)

    async def _done(self, row: Row) -> None:
        await self.db.ask(lambda tables: tables.delete_outbox(row["id"]))

    # -- sweeper -------------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(1.5)
            with Quiet():
                for command in await self.db.ask(self._found):
                    await self.commands.tell(command)

    def _found(self, tables: Tables) -> list[c.Command]:
        now, found = self.world.now(), list[c.Command]()
        for run in tables.of("runs"):
            place = {"session_id": run["session_id"], "run_id": run["id"]}
            due = [at for at in (run.get("deadline"), run.get("cancel_by")) if at is not None and at < now]
            if due and run["status"] in ("queued", *LIVE):
                found.append(c.EnforceDeadline(**place))
            if run["status"] == "awaiting_input" and self._expired(tables, run["session_id"]):
                found.append(c.ExpireToolCalls(session_id=run["session_id"]))
            found += [c.ReapAttempt(**place, attempt_id=a) for a in self._silent(tables, run)]
        return found

    def _expired(self, tables: Tables, session_id: UUID) -> bool:
        calls = StateSnapshot.load(tables.rows["sessions"][session_id,]["state_snapshot"]).pending_tool_calls
        ends = [call.expires_at for call in calls if call.status in OPEN_CALLS]
        return any(at is not None and at < self.world.now() for at in ends)

    def _silent(self, tables: Tables, run: Row) -> list[UUID]:
        after = self.world.settings.actors.silent_after
        if run["status"] not in LIVE:
            return []
        open_ones = (row for row in tables.of("run_attempts", run_id=run["id"]) if row.get("ended_at") is None)
        return [row["attempt_id"] for row in open_ones if not tables.alive(row["attempt_id"], after)]


class Partition:
    """What PartitionConsumer does, on a simulated channel."""

    def __init__(self, actor: SimActor, number: int) -> None:
        self._actor, self.number = actor, number
        self._rejoin = asyncio.Event()
        self._acks: Acknowledger | None = None
        self.owner = PartitionOwner(number, actor.take, self._make, self._rejoin.set)

    async def keep(self) -> None:
        world, process = self._actor.world, self._actor.process
        while True:
            await process.point()
            if not world.broker.up:
                await asyncio.sleep(0.3)
                continue
            channel = await process.call(self._open)
            await self._until_over(channel)
            if channel.is_closed:
                self.owner.drop()
            else:
                await self.owner.close()
                if self._acks is not None:
                    await self._acks.flushed()
                await channel.close()
            self._acks = None
            await asyncio.sleep(world.chance.random())

    async def _until_over(self, channel: Channel) -> None:
        self._rejoin.clear()
        ways = [asyncio.ensure_future(self._rejoin.wait()), asyncio.ensure_future(channel.closed.wait())]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()

    def _open(self) -> Channel:
        broker, process = self._actor.world.broker, self._actor.process
        channel = Channel(broker, broker.queues[self.number], process, self._deliver)
        if broker.up and process.alive:
            broker.queues[self.number].consumers.append(channel)
            broker.queues[self.number].pump()
        else:
            channel.close_by_broker()
        return channel

    def _make(self, partition: int, partition_epoch: int) -> PartitionMailboxes:
        return PartitionMailboxes(partition, partition_epoch, self._actor.groups)

    def _deliver(self, delivered: Delivered) -> None:
        if self._acks is None or self._acks.channel is not delivered.channel:
            self._acks = Acknowledger(delivered.channel, AckLine(delivered.channel.write))
        delivery = AmqpDelivery(self._acks, delivered)  # type: ignore[arg-type]
        envelope = Envelope(delivered.body, delivered.reply_to, delivered.correlation_id, delivery)
        self.owner.deliver(envelope, delivered.channel)


class Quiet:
    """What is away now is tried again by the next round."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, Unavailable | ConnectionGone | RedisError)
