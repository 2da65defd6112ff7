"""The messages of one queue, without I/O: what is ready, what is out unacknowledged, and in which order they leave."""

import heapq
import logging
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.options import QueueOptions

logger = logging.getLogger(__name__)

DropReason = Literal["rejected", "expired", "maxlen", "delivery_limit"]


@dataclass(slots=True, eq=False)
class Entry:
    """A message at its place in one queue; `position` only grows and never changes, also over redeliveries.

    `returns` counts how often it came back unacknowledged; `expires_at` is in seconds of the broker's clock.
    """

    position: int
    message: Message
    expires_at: float | None
    returns: int = 0

    def __lt__(self, other: "Entry") -> bool:
        return self.position < other.position


class Dropped(NamedTuple):
    message: Message
    reason: DropReason


class MemoryGauge:
    """Bytes that all queues of a broker hold together; a message in three queues counts three times."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._refusing = False

    def admits(self, size: int) -> bool:
        """Whether `size` more bytes fit; the first refusal of a spell is logged."""
        refuse = self.held + size > self.limit
        if refuse and not self._refusing:
            logger.warning(
                "queues hold %d of %d bytes: publishes are refused",
                self.held,
                self.limit,
                extra={"action": "amqp_memory_high"},
            )
        self._refusing = refuse
        return not refuse


class QueueState:
    """Keeps the publishing order under any interleaving: what comes back takes its old place."""

    def __init__(self, options: QueueOptions, gauge: MemoryGauge) -> None:
        self._options = options
        self._gauge = gauge
        self._fresh: deque[Entry] = deque()
        self._returned: list[Entry] = []
        self._unacked: dict[int, Entry] = {}
        self._next_position = 0
        self.ready_bytes = 0

    def __len__(self) -> int:
        """Messages ready for delivery."""
        return len(self._fresh) + len(self._returned)

    @property
    def unacked(self) -> int:
        return len(self._unacked)

    def offer(self, message: Message, now: float) -> bool:
        """Append a message; False when the queue is full and its overflow refuses publishers."""
        if self._options.overflow != "drop-head" and self._over_limit(1, len(message.body)):
            return False
        self._fresh.append(Entry(self._next_position, message, self._expiry(message, now)))
        self._next_position += 1
        self._gauge.held += message.size
        self.ready_bytes += len(message.body)
        return True

    def trim(self) -> list[Dropped]:
        """Drop from the head what exceeds the length limits."""
        dropped: list[Dropped] = []
        while len(self) and self._options.overflow == "drop-head" and self._over_limit(0, 0):
            dropped.append(self._drop(self._pop_head(), "maxlen"))
        return dropped

    def expire(self, now: float) -> list[Dropped]:
        """Drop the expired messages that have reached the head."""
        dropped: list[Dropped] = []
        while (head := self.head()) is not None and head.expires_at is not None and head.expires_at <= now:
            dropped.append(self._drop(self._pop_head(), "expired"))
        return dropped

    def head(self) -> Entry | None:
        if self._returned and (not self._fresh or self._returned[0] < self._fresh[0]):
            return self._returned[0]
        return self._fresh[0] if self._fresh else None

    def take(self) -> Entry | None:
        """Hand out the oldest ready message; it stays held until it is acknowledged, rejected or requeued."""
        if self.head() is None:
            return None
        entry = self._pop_head()
        self._unacked[entry.position] = entry
        return entry

    def ack(self, position: int) -> None:
        entry = self._unacked.pop(position, None)
        if entry is not None:
            self._gauge.held -= entry.message.size

    def reject(self, position: int) -> list[Dropped]:
        """Give up a message that is out; empty when the queue no longer knows it (purged with its queue)."""
        entry = self._unacked.pop(position, None)
        return [] if entry is None else [self._drop(entry, "rejected")]

    def requeue(self, positions: Iterable[int]) -> list[Dropped]:
        """Put messages back at their old places; those beyond the delivery limit are dropped instead."""
        entries = [entry for position in positions if (entry := self._unacked.pop(position, None)) is not None]
        return [dropped for entry in entries if (dropped := self._return(entry)) is not None]

    def purge(self) -> int:
        count = len(self)
        self._gauge.held -= sum(entry.message.size for entry in (*self._fresh, *self._returned))
        self.ready_bytes = 0
        self._fresh.clear()
        self._returned.clear()
        return count

    def clear(self) -> int:
        """Forget everything, unacknowledged messages too; returns how many were ready."""
        for position in list(self._unacked):
            self.ack(position)
        return self.purge()

    def _return(self, entry: Entry) -> Dropped | None:
        entry.returns += 1
        limit = self._options.delivery_limit
        if limit is not None and entry.returns > limit:
            return self._drop(entry, "delivery_limit")
        heapq.heappush(self._returned, entry)
        self.ready_bytes += len(entry.message.body)
        return None

    def _pop_head(self) -> Entry:
        entry = heapq.heappop(self._returned) if self.head() in self._returned[:1] else self._fresh.popleft()
        self.ready_bytes -= len(entry.message.body)
        return entry

    def _drop(self, entry: Entry, reason: DropReason) -> Dropped:
        self._gauge.held -= entry.message.size
        return Dropped(entry.message, reason)

    def _over_limit(self, more: int, more_bytes: int) -> bool:
        length, size = self._options.max_length, self._options.max_bytes
        too_long = length is not None and len(self) + more > length
        return too_long or (size is not None and self.ready_bytes + more_bytes > size)

    def _expiry(self, message: Message, now: float) -> float | None:
        limits = [ttl for ttl in (self._options.message_ttl_ms, message.expiration_ms()) if ttl is not None]
        return now + min(limits) / 1000 if limits else None
