"""Which events of a session came, kept small, to be compared with its log when the test is over."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import orjson

from callboard_runtime.client import Event, EventId


@dataclass(slots=True)
class Range:
    """The events of one epoch: from `first` to `last` without a gap, and a checksum of their contents in order."""

    first: int
    last: int
    checksum: int = 0

    def add(self, event: Event) -> None:
        self.checksum = zlib.crc32(orjson.dumps(event.data, option=orjson.OPT_SORT_KEYS), self.checksum)


@dataclass(slots=True)
class Received:
    """Everything that the streams of one session brought; notes what is out of order, doubled or skipped."""

    ranges: dict[int, Range] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    newest: EventId | None = None

    def note(self, event: Event) -> None:
        """Take the next event of a stream."""
        if event.id is None:
            return
        if self.newest is not None and event.id <= self.newest:
            self.faults.append(f"event {event.id} came after {self.newest}")
            return
        self.newest = event.id
        known = self.ranges.setdefault(event.id.epoch, Range(event.id.seq, event.id.seq - 1))
        if event.id.seq != known.last + 1:
            self.faults.append(f"event {event.id} came after {event.id.epoch}-{known.last}")
        known.last = event.id.seq
        known.add(event)


def logged(events: list[Event]) -> dict[int, Range]:
    """The same of a session's log."""
    received = Received()
    for event in events:
        received.note(event)
    return received.ranges


def compare(received: Mapping[int, Range], log: Mapping[int, Range]) -> list[str]:
    """How what came differs from the log of a session of which every stream was read to its end.

    A reader may have seen more of an epoch that was replaced, and got its own closings in place of the first events of
    the one that followed.
    """
    faults: list[str] = []
    for epoch, kept in log.items():
        came = received.get(epoch)
        if came is None or came.last < kept.last:
            faults.append(f"lost: events {epoch}-{came.last + 1 if came else 1} to {epoch}-{kept.last} never came")
        elif came.last > kept.last and epoch == max(log):
            faults.append(f"not in the log: events {epoch}-{kept.last + 1} to {epoch}-{came.last}")
        elif (came.first, came.last) == (kept.first, kept.last) and came.checksum != kept.checksum:
            faults.append(f"altered: the log has other contents for epoch {epoch}")
    return faults + [f"not in the log: epoch {epoch}" for epoch in received if epoch not in log]
