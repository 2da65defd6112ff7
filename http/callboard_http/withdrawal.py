"""Taking back what a dead attempt showed and nobody committed."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from uuid import UUID

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


MEMORY = 8 * 1024 * 1024  # bytes that a front remembers of what its readers were shown beyond the log


class Shown:
    """The chunks that a reader was sent and that were not known to be committed; bounded by the heartbeat."""

    __slots__ = ("chunks", "held")

    def __init__(self) -> None:
        self.chunks: list[Chunk] = []
        self.held = 0  # bytes

    def add(self, chunk: Chunk) -> None:
        self.chunks.append(chunk)
        self.held += len(chunk.body)

    def committed(self, upto: EventId) -> None:
        """Forget what the log has; `upto` is a committed event of the epoch that was shown."""
        known = next((i for i, chunk in enumerate(self.chunks) if chunk.last > upto), len(self.chunks))
        self.held -= sum(len(chunk.body) for chunk in self.chunks[:known])
        del self.chunks[:known]

    def clear(self) -> None:
        self.chunks.clear()
        self.held = 0


class Memory:
    """What readers were shown beyond the log and may come back with; of all sessions together at most `limit` bytes.

    Only the fronts know it once the log has gone another way: the session heard of longest ago is forgotten first.
    """

    def __init__(self, limit: int = MEMORY) -> None:
        self._limit, self._held = limit, 0
        self._sessions: OrderedDict[UUID, dict[tuple[EventId, int], Chunk]] = OrderedDict()

    def keep(self, session_id: UUID, chunks: Sequence[Chunk]) -> None:
        if not chunks:
            return
        kept = self._sessions.setdefault(session_id, {})
        self._sessions.move_to_end(session_id)
        for chunk in chunks:
            if (place := (chunk.last, chunk.first)) not in kept:
                kept[place] = chunk
                self._held += len(chunk.body)
        while self._held > self._limit:
            _, forgotten = self._sessions.popitem(last=False)
            self._held -= sum(len(chunk.body) for chunk in forgotten.values())

    def between(self, session_id: UUID, after: EventId, upto: EventId) -> list[Chunk] | None:
        """The events of one epoch after one of its events up to another; None unless all of them are known."""
        found: list[Chunk] = []
        for _, chunk in sorted(self._sessions.get(session_id, {}).items()):
            if after < upto and chunk.epoch == after.epoch and chunk.first <= after.seq + 1 <= chunk.last.seq:
                found.append(chunk.after(after.seq).upto(upto.seq))
                after = found[-1].last
        return found if after >= upto else None


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
