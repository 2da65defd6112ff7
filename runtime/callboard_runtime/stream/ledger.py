"""The numbered lines of one epoch, kept until they are both committed and sent.

Deltas are joined before they get a number.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from callboard_runtime.domain.event_batch import AguiEvent, EventBatch, to_line

_JOINED = {
    "TEXT_MESSAGE_CONTENT": "messageId",
    "TOOL_CALL_ARGS": "toolCallId",
    "REASONING_MESSAGE_CONTENT": "messageId",
}

_LONG = 8192  # characters of a delta after which it takes no more: a reader can be cut between them


class EventLedger:
    """Numbers events 1, 2, 3… inside an epoch and remembers how far they were sent and committed."""

    def __init__(self, opening: EventBatch) -> None:
        """`opening` is what the actor has already committed of this epoch."""
        self.epoch = opening.epoch
        self.committed = opening.last_seq
        self.sent = opening.first_seq - 1
        self.uncommitted_bytes = 0
        self._base = self.sent  # seq before the first kept line
        self._kept: deque[str] = deque(opening.lines)
        self._fresh: list[AguiEvent] = []

    @property
    def last(self) -> int:
        """The highest number given."""
        return self._base + len(self._kept)

    @property
    def unsent(self) -> bool:
        return self.sent < self.last

    def add(self, event: AguiEvent) -> None:
        """Take in the next event; a delta is joined to the one before it if both belong to the same part."""
        if self._fresh and _same_part(self._fresh[-1], event):
            last = self._fresh[-1]
            self._fresh[-1] = last | {"delta": last["delta"] + event["delta"]}
        else:
            self._fresh.append(event)

    def seal(self) -> None:
        """Number what was added; it cannot be joined any more."""
        lines = [to_line(event) for event in self._fresh]
        self._kept.extend(lines)
        self.uncommitted_bytes += _bytes_of(lines)
        self._fresh.clear()

    def since(self, seq: int, *, upto: int | None = None) -> EventBatch | None:
        """The numbered lines after `seq`; None if there are none."""
        lines = tuple(islice(self._kept, max(0, seq - self._base), None if upto is None else upto - self._base))
        return EventBatch(epoch=self.epoch, first_seq=max(seq, self._base) + 1, lines=lines) if lines else None

    def mark_sent(self, seq: int) -> None:
        self.sent = max(self.sent, seq)
        self._forget()

    def mark_committed(self, seq: int) -> None:
        if seq <= self.committed:
            return
        newly = self.since(self.committed, upto=min(seq, self.last))
        if newly is not None:
            self.uncommitted_bytes -= _bytes_of(newly.lines)
        self.committed = seq
        self._forget()

    def _forget(self) -> None:
        while self._kept and self._base < min(self.sent, self.committed):
            self._kept.popleft()
            self._base += 1


def _bytes_of(lines: Iterable[str]) -> int:
    return len("".join(lines).encode())


def _same_part(last: AguiEvent, event: AguiEvent) -> bool:
    key = _JOINED.get(event["type"])
    return key is not None and len(last.get("delta", "")) < _LONG and _without_delta(last) == _without_delta(event)


def _without_delta(event: AguiEvent) -> AguiEvent:
    return {name: value for name, value in event.items() if name not in ("delta", "timestamp")}
