"""The states that a partition's actor holds: read once, replaced after every commit, dropped with the partition."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.domain.state_snapshot import StateSnapshot


@dataclass(frozen=True, slots=True)
class Held:
    """A session's state and the version of its row; 0: not stored yet.

    `untried`: what the active run was asked, if its acceptance was the last commit, so that nobody has attempted it.
    """

    snapshot: StateSnapshot
    version: int
    untried: RunInput | None = None


NEW = Held(StateSnapshot(), 0)


class Sessions:
    """A bounded cache in order of use; what is in it is committed."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held: OrderedDict[UUID, Held] = OrderedDict()

    def get(self, session_id: UUID) -> Held | None:
        held = self._held.get(session_id)
        if held is not None:
            self._held.move_to_end(session_id)
        return held

    def replace(self, session_id: UUID, held: Held) -> None:
        self._held[session_id] = held
        self._held.move_to_end(session_id)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)

    def forget(self, ids: Iterable[UUID]) -> None:
        """Read these again next time: nobody knows whether their last commit took effect."""
        for session_id in ids:
            self._held.pop(session_id, None)
