"""Taking back what a dead attempt showed and nobody committed."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from callboard_http.chunk import Chunk, event_type
from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.domain.event_batch import EventId

_CLOSINGS = frozenset(
    {
        "TEXT_MESSAGE_END",
        "TOOL_CALL_END",
        "REASONING_MESSAGE_END",
        "REASONING_END",
        "STEP_FINISHED",
        "SUBAGENT_FINISHED",
        "SUBAGENT_ERROR",
    }
)


class Shown:
    """The chunks that a reader was sent and that were not known to be committed; bounded by the heartbeat."""

    def __init__(self) -> None:
        self._chunks: deque[Chunk] = deque()
        self.held = 0  # bytes

    def add(self, chunk: Chunk) -> None:
        self._chunks.append(chunk)
        self.held += len(chunk.body)

    def committed(self, upto: EventId) -> None:
        """Forget what the log has; `upto` is a committed event of the epoch that was shown."""
        while self._chunks and self._chunks[0].last <= upto:
            self.held -= len(self._chunks.popleft().body)

    def clear(self) -> None:
        self._chunks.clear()
        self.held = 0

    def beyond(self, committed: EventId) -> list[Chunk]:
        """What was shown after the last event that its epoch committed."""
        kept = [chunk for chunk in self._chunks if chunk.last > committed]
        return [chunk.after(committed.seq) for chunk in kept]


def closings(committed: Iterable[Chunk], withdrawn: Iterable[Chunk]) -> Chunk | None:
    """What closes everything that a reader of both has open, without ids; None if nothing is."""
    parts = OpenParts.of(event for group in (committed, withdrawn) for chunk in group for event in chunk.events())
    open_now = parts.closings()
    return Chunk.unlogged(*open_now) if open_now else None


def without_leading_closings(chunks: Iterable[Chunk]) -> list[Chunk]:
    """The new epoch's chunks without the closings that it begins with: this reader has just got its own."""
    rest = deque(chunks)
    while rest:
        lines = rest[0].body.split(b"\n")
        kept = next((i for i, line in enumerate(lines) if event_type(line) not in _CLOSINGS), None)
        if kept is not None:
            rest[0] = rest[0].after(rest[0].first + kept - 1)
            break
        rest.popleft()
    return list(rest)
