"""Events as they are sent and kept: numbered lines of AG-UI JSON, one line an event."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field

from callboard_runtime.errors import InvalidInput

AguiEvent = dict[str, Any]
"""One AG-UI 1.0 event in its wire form (camelCase keys, no nulls)."""


class EventId(NamedTuple):
    """`<epoch>-<seq>`: the SSE id, the Redis stream id and the cursor; ordered as a pair. `0-0` is before all."""

    epoch: int
    seq: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `<epoch>-<seq>`; raises InvalidInput for anything else."""
        epoch, dash, seq = text.strip().partition("-")
        if not (dash and epoch.isascii() and epoch.isdigit() and seq.isascii() and seq.isdigit() and len(text) <= 40):
            raise InvalidInput(f"event id {text[:40]!r} is not of the form <epoch>-<seq>, such as 3-17")
        return cls(int(epoch), int(seq))


ORIGIN = EventId(0, 0)


class EventBatch(BaseModel):
    """Consecutive events of one epoch; `lines[i]` has the id `<epoch>-<first_seq + i>`."""

    model_config = ConfigDict(frozen=True)

    epoch: int = Field(ge=1)
    first_seq: int = Field(ge=1)
    lines: tuple[str, ...]

    @property
    def last_seq(self) -> int:
        """The seq of the last line; one less than `first_seq` for an empty batch."""
        return self.first_seq + len(self.lines) - 1

    def after(self, seq: int) -> EventBatch:
        """What of this batch comes after `seq`; may be empty."""
        skip = max(0, seq + 1 - self.first_seq)
        return (
            self if not skip else EventBatch(epoch=self.epoch, first_seq=self.first_seq + skip, lines=self.lines[skip:])
        )

    def events(self) -> Iterator[tuple[EventId, AguiEvent]]:
        """The parsed events with their ids, in order."""
        for offset, line in enumerate(self.lines):
            yield EventId(self.epoch, self.first_seq + offset), orjson.loads(line)


def to_line(event: AguiEvent) -> str:
    """One event as one line of JSON; never contains a newline."""
    return orjson.dumps(event).decode()


def batch(epoch: int, first_seq: int, events: Iterable[AguiEvent]) -> EventBatch:
    """Number `events` from `first_seq`."""
    return EventBatch.model_construct(epoch=epoch, first_seq=first_seq, lines=tuple(map(to_line, events)))
