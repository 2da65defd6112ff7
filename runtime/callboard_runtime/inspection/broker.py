"""What waits in the broker's queues, and who consumes them; every look is a connection of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq.abc import AbstractChannel
from pydantic import JsonValue

from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import open_channel, reach
from callboard_runtime.broker.dead_letters import DeadLetter, DeadLetters
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import NotFound
from callboard_runtime.inspection.views import DeadLetterDetail, DeadLetterLine, DeadLetterList, Depth

SEARCHED = 1000  # dead letters that are looked through for one


@dataclass(frozen=True, slots=True)
class Queues:
    """Depths by kind, and the partitions whose queue nobody consumes."""

    depths: tuple[Depth, ...]
    unserved: tuple[int, ...]


async def look_at_queues(url: str) -> Queues:
    """Count what waits; raises Unavailable when the broker is away."""
    async with reach(url) as connection:
        gauge = _Gauge(connection)
        partitions = [await gauge.read(topology.partition_queue(partition)) for partition in range(PARTITIONS)]
        others = [await gauge.read(name) for name in _SINGLE]
    unserved = tuple(number for number, depth in enumerate(partitions) if depth.missing or not depth.consumers)
    return Queues((_sum("sessions", partitions), *others), unserved)


_SINGLE = (topology.WORKER_QUEUE, topology.INGRESS_QUEUE, topology.DEAD_QUEUE)


class _Gauge:
    """Asks queue by queue; the broker closes the channel on a question about one that does not exist."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._channel: AbstractChannel | None = None

    async def read(self, name: str) -> Depth:
        if self._channel is None:
            self._channel = await open_channel(self._connection, confirms=False)
        try:
            declared = await self._channel.queue_declare(name, passive=True)
        except ChannelNotFoundEntity:
            self._channel = None
            return Depth(name=name, messages=0, consumers=0, missing=1)
        return Depth(name=name, messages=declared.message_count or 0, consumers=declared.consumer_count or 0)


def _sum(name: str, depths: Iterable[Depth]) -> Depth:
    parts = list(depths)
    return Depth(
        name=name,
        messages=sum(part.messages for part in parts),
        consumers=sum(part.consumers for part in parts),
        missing=sum(part.missing for part in parts),
    )


async def list_dead_letters(url: str, limit: int) -> DeadLetterList:
    """The oldest `limit` dead letters without their content; they stay where they are."""
    async with reach(url) as connection:
        letters = await DeadLetters.open(connection)
        found = [letter async for letter in letters.read(limit)]
        return DeadLetterList(letters=tuple(map(_line, found)), total=await letters.count())


async def get_dead_letter(url: str, letter_id: str) -> DeadLetterDetail:
    """One of the oldest `SEARCHED` dead letters; raises NotFound."""
    async with reach(url) as connection:
        letters = await DeadLetters.open(connection)
        async for letter in letters.read(SEARCHED):
            if letter.id == letter_id:
                headers = {name: _as_json(value) for name, value in letter.shown_headers().items()}
                return DeadLetterDetail(letter=_line(letter), headers=headers, body=letter.content())
    raise NotFound(f"there is no dead letter {letter_id}")


def _line(letter: DeadLetter) -> DeadLetterLine:
    return DeadLetterLine.model_validate(letter.summary())


def _as_json(value: object) -> JsonValue:
    return value if isinstance(value, str | int | float | bool | None) else str(value)
