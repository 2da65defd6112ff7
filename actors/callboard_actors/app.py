"""The FastStream application: 64 partition subscribers, and who of the living processes consumes which of them.

In: commands on the partition queues; the list of living actor processes. Out: envelopes to the partitions' mailboxes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Any, cast

from aio_pika import RobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, ChannelNotFoundEntity
from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.acks import AckLines
from callboard_actors.consumer import PartitionConsumer
from callboard_actors.ownership import Mailboxes, PartitionOwner, living_processes, take_partition
from callboard_actors.partitions import Handovers, assign
from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import ConnectionGone, gone_when_broken, is_real_cancellation
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import Unavailable
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

MEMBERSHIP_EVERY = 1.0  # seconds
PROBE_EVERY = 15.0  # seconds between two looks at the broker's own count of consumers
PROBE_TIMEOUT = 5.0  # seconds
MISSING_ROUNDS = 5  # rounds without a consumer before it is set up anew; aio-pika usually does so by itself
MOVES_AT_ONCE = 8  # channels opened or closed together
CONNECT_TIMEOUT = 5.0  # seconds; a broker that accepts connections and says nothing must not be waited for
MOVE_TIMEOUT = 20.0  # seconds for one of them; a move that hangs must not keep the others, and repairs, waiting

MakeMailboxes = Callable[[int, int], Mailboxes]
"""From partition and partition_epoch to the mailboxes of that ownership."""


def build_broker(url: str, name: str = "callboard-actors") -> RabbitBroker:
    """The FastStream broker: no injected arguments (they would reorder messages), no log lines per message."""
    return RabbitBroker(
        url,
        reconnect_interval=1.0,
        timeout=CONNECT_TIMEOUT,
        client_properties=cast(Any, {"connection_name": name}),
        apply_types=False,
        logger=None,
    )


class ActorApp:
    """The partitions of one process: it consumes its favourites at once, the others as standby."""

    def __init__(
        self, broker: RabbitBroker, engine: AsyncEngine, settings: Settings, process: str, make: MakeMailboxes
    ) -> None:
        self.broker, self.process = broker, process
        self._engine, self._settings = engine, settings.actors
        take, lines = partial(take_partition, engine, process=process), AckLines()
        owners = [PartitionOwner(number, take, make, self._lost(number)) for number in range(PARTITIONS)]
        self.partitions = tuple(
            PartitionConsumer(broker, number, settings.actors, owner, lines) for number, owner in enumerate(owners)
        )
        self._handovers = Handovers(process, 2 * settings.actors.standby_delay + MEMBERSHIP_EVERY)
        self._members = frozenset({process})
        self._missing: dict[int, int] = {}  # partition -> rounds without a consumer
        self._moves: dict[int, asyncio.Task[None]] = {}
        self._lost_meanwhile: set[int] = set()  # while they moved
        self._stopping = False
        self._gate = asyncio.Semaphore(MOVES_AT_ONCE)
        self._connection: RobustConnection | None = None

    @property
    def owned(self) -> frozenset[int]:
        """The partitions whose commands arrive here now."""
        return frozenset(item.partition for item in self.partitions if item.owner.active)

    @property
    def connected(self) -> bool:
        """Whether the connection to the broker stands."""
        return self._connection is not None and self._connection.connected.is_set()

    async def start(self) -> None:
        """Connect and join the favourites; raises what aio-pika raises while the broker is away."""
        self._connection = await self.broker.connect()
        await self._refresh()
        favourites = assign(self._members)
        await self._all(PartitionConsumer.join, (i for i in self.partitions if favourites[i.partition] == self.process))
        logger.info("consuming %d partitions", favourites.count(self.process), extra={"action": "partitions_joined"})

    async def run(self) -> None:
        """Join the rest as standby, then follow the membership and look after the consumers, until cancelled."""
        await asyncio.sleep(self._settings.standby_delay)
        await self._all(PartitionConsumer.join, self.partitions)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_every(MEMBERSHIP_EVERY, self._round))
            tasks.create_task(_every(PROBE_EVERY, self._probe))

    async def stop(self) -> None:
        """Hand everything over: commits in flight end, channels close, then the connection does."""
        self._stopping = True
        moves = list(self._moves.values())
        for move in moves:
            move.cancel()
        await asyncio.gather(*moves, return_exceptions=True)
        await self._all(PartitionConsumer.leave, self.partitions)
        with suppress(*CONNECTION_EXCEPTIONS):
            await self.broker.stop()

    async def _round(self) -> None:
        await self._refresh()
        now = asyncio.get_running_loop().time()
        for partition in self._handovers.due(self._members, self.owned, now):
            self._move(partition, "another process is its favourite")
        if self.connected:
            with suppress(TimeoutError):  # the connection broke just now: looking waits for the next one
                async with asyncio.timeout(PROBE_TIMEOUT):
                    await self._watch()

    async def _refresh(self) -> None:
        """Look who lives; while the database is away the last answer stands."""
        with suppress(Unavailable):
            living = await living_processes(self._engine, "actors", self._settings.silent_after)
            self._members = living | {self.process}
        if is_real_cancellation():  # an outage in the same moment must not hide it
            raise asyncio.CancelledError

    async def _watch(self) -> None:
        """Set up consumers anew that neither the broker nor aio-pika brought back."""
        for item in self.partitions:
            if item.joined and not await item.consuming():
                self._missing[item.partition] = self._missing.get(item.partition, 0) + 1
            else:
                self._missing.pop(item.partition, None)
        for partition, rounds in list(self._missing.items()):
            if rounds >= MISSING_ROUNDS:
                del self._missing[partition]
                self._move(partition, "its consumer is gone")

    async def _probe(self) -> None:
        """Ask the broker for partitions without any consumer: it may have forgotten ours without telling."""
        if self._connection is None or not self.connected:
            return
        with suppress(*CONNECTION_EXCEPTIONS, ConnectionGone, TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT), gone_when_broken():
                for partition in await self._unconsumed(self._connection):
                    self._move(partition, "the broker knows no consumer of it")

    async def _unconsumed(self, connection: RobustConnection) -> list[int]:
        """The partitions that have no consumer, though ours seems to be there; a missing queue ends the search."""
        found: list[int] = []
        async with await connection.channel(publisher_confirms=False) as channel:
            for item in [item for item in self.partitions if item.joined and await item.consuming()]:
                try:
                    queue = await channel.declare_queue(topology.partition_queue(item.partition), passive=True)
                except ChannelNotFoundEntity:
                    return [*found, item.partition]
                if not queue.declaration_result.consumer_count:
                    found.append(item.partition)
        return found

    def _lost(self, partition: int) -> Callable[[], None]:
        def move() -> None:
            if partition in self._moves:
                self._lost_meanwhile.add(partition)  # perhaps with the channel that the move has just opened
            self._move(partition, "another process took it")

        return move

    def _move(self, partition: int, reason: str) -> None:
        if self._stopping or partition in self._moves:
            return  # what is lost while the process stops is left with the rest: it must not consume again
        logger.info("partition %d: to the end of the line, %s", partition, reason, extra={"action": "partition_moved"})
        move = asyncio.create_task(self._quietly(PartitionConsumer.rejoin, self.partitions[partition]))
        self._moves[partition] = move
        move.add_done_callback(lambda _: self._moved(partition))

    def _moved(self, partition: int) -> None:
        del self._moves[partition]
        if partition in self._lost_meanwhile:
            self._lost_meanwhile.discard(partition)
            self._lost(partition)()

    async def _all(self, step: Callable[[PartitionConsumer], Awaitable[None]], of: Iterable[PartitionConsumer]) -> None:
        await asyncio.gather(*(self._quietly(step, item) for item in of))

    async def _quietly(self, step: Callable[[PartitionConsumer], Awaitable[None]], item: PartitionConsumer) -> None:
        """One join, leave or rejoin; what fails here is found and repaired by the next rounds."""
        async with self._gate:
            try:
                async with asyncio.timeout(MOVE_TIMEOUT):
                    await step(item)
            except (*CONNECTION_EXCEPTIONS, ConnectionGone, TimeoutError) as error:
                logger.info("partition %d: %s", item.partition, error, extra={"action": "partition_retry"})


async def _every(seconds: float, step: Callable[[], Awaitable[None]]) -> None:
    while True:
        await step()
        if is_real_cancellation():  # closing a channel under cancellation may raise something else in its place
            raise asyncio.CancelledError
        await asyncio.sleep(seconds)
