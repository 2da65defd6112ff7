"""Whether an event is the next one, one seen before, or proof that others are missing."""

from __future__ import annotations

from callboard_runtime.client.errors import EventsMissing
from callboard_runtime.client.models import Event
from callboard_runtime.domain.event_batch import AguiEvent, EventId


class EventSequence:
    """Follows one stream over any number of connections; `last` is the cursor to come back with."""

    def __init__(self, after: EventId | None = None) -> None:
        self.last = after
        self.repeated = 0  # events that were sent again, and left out
        self._seen_here = False  # whether this connection has brought an event of the log
        self._unlogged: list[AguiEvent] = []  # since `last`
        self._unlogged_here = 0

    def connected(self) -> None:
        """A new connection begins: it repeats what has no id, as no cursor can name that."""
        self._seen_here, self._unlogged_here = False, 0

    def is_new(self, event: Event) -> bool:
        """Whether to pass the event on. Raises EventsMissing for one that does not follow."""
        if event.id is None:
            return self._is_new_unlogged(event.data)
        if self.last is not None and event.id <= self.last:
            self.repeated += 1
            return False
        if not self._follows(event.id):
            raise EventsMissing(self.last, event.id)
        self.last, self._seen_here = event.id, True
        self._unlogged, self._unlogged_here = [], 0
        return True

    def _follows(self, new: EventId) -> bool:
        """Inside an epoch ids have no gaps.

        A later epoch begins with 1, except where a reader who was watching got its own closings in place of the ones
        that the log begins with.
        """
        if self.last is not None and new.epoch == self.last.epoch:
            return new.seq == self.last.seq + 1
        watching = self._seen_here and self.last is not None
        return new.seq == 1 or watching or bool(self._unlogged)

    def _is_new_unlogged(self, data: AguiEvent) -> bool:
        place, self._unlogged_here = self._unlogged_here, self._unlogged_here + 1
        if place < len(self._unlogged) and self._unlogged[place] == data:
            return False
        self._unlogged[place:] = [data]
        return True
