"""What a crew needs from whoever runs it: a journal to ask before every step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.run_input import NewMessage


class JournalEntry(Protocol):
    """One row of an earlier attempt, as a replay sees it."""

    @property
    def key(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def result(self) -> Any: ...
    @property
    def epoch(self) -> int: ...


class Journal(Protocol):
    """The durable record of a run's steps; used on the worker's loop only."""

    async def begin(self, *steps: StepBegin) -> None:
        """Commit that the steps are about to start; raises StaleEpoch, RunCancelling or Unavailable."""
        ...

    async def record(self, *records: StepRecord, messages: Sequence[NewMessage] = (), state: Any = None) -> None:
        """Commit what begun steps came to, with the message rows they make and, if they changed it, the state."""
        ...

    def find(self, key: str) -> JournalEntry | None:
        """The row of an earlier attempt under this key; a recorded one counts as replayed from here on."""
        ...

    def unreplayed(self) -> tuple[str, ...]:
        """Keys of recorded rows of earlier attempts that nobody asked for yet."""
        ...
