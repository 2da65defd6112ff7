"""Consecutive events of one leg as they pass through the front: the bytes of their lines, never parsed on the way."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Self

import orjson

from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent, EventBatch, EventId, to_line

_MAYBE_CLOSING = re.compile(rb'"type":"RUN_(?:FINISHED|ERROR)"')
_MAYBE_OPENING = re.compile(rb'"type":"RUN_STARTED"')


@dataclass(frozen=True, slots=True)
class Chunk:
    """`body` holds one line of AG-UI JSON per event, the first of which has the id `<epoch>-<first>`.

    Epoch 0 marks events that are in no log: they are sent without ids.
    """

    epoch: int
    first: int
    body: bytes
    closing: bool = False  # the last line ends the leg
    previous: EventId = ORIGIN  # live chunks only: the event before the first one

    @classmethod
    def of_batch(cls, batch: EventBatch) -> Self:
        """A batch from the tail; whether it ends the leg is read off its last line."""
        body = "\n".join(batch.lines).encode()
        return cls(batch.epoch, batch.first_seq, body, closing=_ends_leg(body))

    @classmethod
    def unlogged(cls, *events: AguiEvent, closing: bool = False) -> Self:
        """Events of this reader alone."""
        return cls(0, 1, "\n".join(to_line(event) for event in events).encode(), closing)

    @property
    def last(self) -> EventId:
        """The id of the last event."""
        return EventId(self.epoch, self.first + self.body.count(b"\n"))

    @property
    def logged(self) -> bool:
        return self.epoch > 0

    @property
    def opens_leg(self) -> bool:
        """Whether the first line is the RUN_STARTED of its leg."""
        first_line = self.body.partition(b"\n")[0]
        return bool(_MAYBE_OPENING.search(first_line)) and orjson.loads(first_line)["type"] == "RUN_STARTED"

    def after(self, seq: int) -> Chunk:
        """What comes after `seq`, which must not be the last one."""
        skip = seq + 1 - self.first
        if skip <= 0:
            return self
        return Chunk(self.epoch, seq + 1, self.body.split(b"\n", skip)[skip], self.closing)

    def upto(self, seq: int) -> Chunk:
        """What comes up to `seq`, which must be in it; it ends something only if it is whole."""
        lines = self.body.split(b"\n")
        count = seq + 1 - self.first
        return self if count >= len(lines) else Chunk(self.epoch, self.first, b"\n".join(lines[:count]))

    def without_last(self) -> Chunk | None:
        """All but the last event; None if there is no other. It ends nothing any more."""
        body, newline, _ = self.body.rpartition(b"\n")
        return Chunk(self.epoch, self.first, body) if newline else None

    def without_start(self) -> Chunk | None:
        """The chunk without the RUN_STARTED that it may begin with; None if nothing is left."""
        if not self.opens_leg:
            return self
        _, newline, rest = self.body.partition(b"\n")
        return Chunk(self.epoch, self.first + 1, rest, self.closing) if newline else None

    def events(self) -> list[AguiEvent]:
        """The parsed events."""
        return [orjson.loads(line) for line in self.body.split(b"\n")]

    @property
    def frames(self) -> bytes:
        """The SSE frames of all lines."""
        lines = self.body.split(b"\n")
        if not self.logged:
            return b"".join(b"data: %b\n\n" % line for line in lines)
        epoch = b"id: %d" % self.epoch
        return b"".join(b"%b-%d\ndata: %b\n\n" % (epoch, seq, line) for seq, line in enumerate(lines, self.first))


def event_type(line: bytes) -> str:
    """The `type` of one line of AG-UI JSON."""
    event: dict[str, Any] = orjson.loads(line)
    return str(event.get("type"))


def _ends_leg(body: bytes) -> bool:
    last_line = body.rpartition(b"\n")[2]
    return bool(_MAYBE_CLOSING.search(last_line)) and event_type(last_line) in ("RUN_FINISHED", "RUN_ERROR")
