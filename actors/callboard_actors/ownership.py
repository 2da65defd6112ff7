"""Taking a partition in the database, and handing its deliveries in order to mailboxes that hold its epoch.

In: deliveries of one partition's channel. Out: the partition's mailboxes, made anew with a higher `partition_epoch` for
every channel on which deliveries arrive: single active consumer means that whoever gets one is the active one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Protocol

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.metrics import PARTITION_TAKES
from callboard_actors.settle import Envelope
from callboard_runtime.broker.connection import is_real_cancellation
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import CallboardError, Unavailable
from callboard_runtime.persistence.database import connect, transaction
from callboard_runtime.persistence.tables import PartitionRow, ProcessRow

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to take a partition


class Mailboxes(Protocol):
    """What an owned partition hands its deliveries to."""

    lost: asyncio.Event

    @property
    def waiting(self) -> int: ...
    def put(self, envelope: Envelope) -> None: ...
    async def close(self) -> None: ...


async def take_partition(engine: AsyncEngine, partition: int, process: str) -> int:
    """Make `process` the owner; returns the new partition_epoch, which every commit of an older owner fails on.

    Raises Unavailable while the database is away.
    """
    statement = (
        update(PartitionRow)
        .where(PartitionRow.partition == partition)
        .values(owner=process, partition_epoch=PartitionRow.partition_epoch + 1, taken_at=func.now())
        .returning(PartitionRow.partition_epoch)
    )
    async with transaction(engine) as connection:
        epoch = (await connection.execute(statement)).scalar_one_or_none()
    if epoch is None:
        raise CallboardError(f"the table `partitions` has no row {partition}; run `callboard migrate`")
    return epoch


async def living_processes(engine: AsyncEngine, kind: str, silent_after: float) -> frozenset[str]:
    """Ids of the processes of one kind that were heard of within `silent_after` seconds, by the database's clock."""
    statement = select(ProcessRow.id).where(
        ProcessRow.kind == kind, ProcessRow.beat_at > func.now() - timedelta(seconds=silent_after)
    )
    async with connect(engine) as connection:
        return frozenset((await connection.execute(statement)).scalars())


async def partition_owners(engine: AsyncEngine) -> list[str | None]:
    """The last owner of every partition, living or not."""
    async with connect(engine) as connection:
        rows = await connection.execute(select(PartitionRow.partition, PartitionRow.owner))
        owners = {row.partition: row.owner for row in rows}
    return [owners.get(partition) for partition in range(PARTITIONS)]


class PartitionOwner:
    """One partition in this process: takes it at a channel's first delivery, then feeds its mailboxes in order.

    Deliveries that arrive while it is being taken wait here; the channel's prefetch bounds them. `on_lost` is called
    once per channel when another owner fenced the mailboxes out.
    """

    def __init__(
        self,
        partition: int,
        take: Callable[[int], Awaitable[int]],
        make: Callable[[int, int], Mailboxes],
        on_lost: Callable[[], None],
    ) -> None:
        self._partition, self._take, self._make, self._on_lost = partition, take, make, on_lost
        self._channel: object | None = None
        self._held: list[Envelope] = []
        self._mailboxes: Mailboxes | None = None
        self._work: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None

    @property
    def active(self) -> bool:
        """Whether deliveries arrived on the present channel."""
        return self._channel is not None

    @property
    def waiting(self) -> int:
        """Commands that arrived and are not settled."""
        return len(self._held) + (self._mailboxes.waiting if self._mailboxes is not None else 0)

    def deliver(self, envelope: Envelope, channel: object) -> None:
        """Accept one delivery; calls come in delivery order. A new `channel` means a new ownership."""
        if channel is not self._channel:
            self.drop()
            self._channel = channel
            self._work = asyncio.create_task(self._own(), name=f"partition-{self._partition}")
        if self._mailboxes is None:
            self._held.append(envelope)
        else:
            self._mailboxes.put(envelope)

    async def close(self) -> None:
        """Finish the commit in flight, forget the rest: unacknowledged deliveries come again on another channel."""
        self.drop()
        if self._closing is not None:
            await asyncio.shield(self._closing)

    def drop(self) -> None:
        """Begin what `close` does, and return at once; a later ownership waits until it is done."""
        work, mailboxes = self._work, self._mailboxes
        self._channel = self._work = self._mailboxes = None
        self._held = []
        if work is None:
            return
        work.cancel()
        self._closing = asyncio.create_task(_shut(self._closing, work, mailboxes))

    async def _own(self) -> None:
        if self._closing is not None:
            await asyncio.shield(self._closing)
        epoch = await self._taken()
        self._mailboxes = mailboxes = self._make(self._partition, epoch)
        held, self._held = self._held, []
        for envelope in held:
            mailboxes.put(envelope)
        await mailboxes.lost.wait()
        logger.warning("partition %d has another owner", self._partition, extra={"action": "partition_lost"})
        self._on_lost()

    async def _taken(self) -> int:
        """The new partition_epoch; tries for as long as it takes, because a refused delivery would lose its place."""
        pause = FIRST_PAUSE
        while True:
            epoch = await self._try_to_take()
            if is_real_cancellation():  # an outage in the same moment must not hide it: `_shut` waits for the end
                raise asyncio.CancelledError
            if epoch is not None:
                return epoch
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _try_to_take(self) -> int | None:
        try:
            epoch = await self._take(self._partition)
        except Unavailable as error:
            logger.warning("partition %d waits: %s", self._partition, error, extra={"action": "partition_waits"})
        except Exception:
            logger.exception("partition %d cannot be taken", self._partition, extra={"action": "partition_waits"})
        else:
            PARTITION_TAKES.inc()
            return epoch
        return None


async def _shut(previous: asyncio.Task[None] | None, work: asyncio.Task[None], mailboxes: Mailboxes | None) -> None:
    if previous is not None:
        await previous
    await asyncio.wait([work])
    if mailboxes is not None:
        await mailboxes.close()
