"""The journal as one leg of a flow sees it: a resumed flow starts afresh, so earlier legs' rows are not replayed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from callboard_runtime.crew.ports import Journal, JournalEntry
from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.run_input import NewMessage

_LEG = re.compile(r"leg(\d+)/")
_DIGEST = re.compile(r"@([0-9a-f]{16})#")


def leg_of(key: str) -> int | None:
    """The leg that a step of a flow belongs to; None for other rows, such as answers from outside."""
    found = _LEG.match(key)
    return int(found[1]) if found else None


class LegJournal:
    """A Journal of the steps whose keys begin with this leg's `prefix`."""

    def __init__(self, journal: Journal, leg: int) -> None:
        self._journal = journal
        self.prefix = f"leg{leg}/"
        self._claims: Counter[str] = Counter()

    @contextmanager
    def claimed(self, digest: str) -> Generator[None]:
        """Inside it, rows of model calls with this request digest do not count as unreplayed: they are being asked for.

        Calls that a method makes side by side may be lost and recorded in any combination.
        """
        self._claims[digest[:16]] += 1
        try:
            yield
        finally:
            self._claims[digest[:16]] -= 1

    async def begin(self, *steps: StepBegin) -> None:
        await self._journal.begin(*steps)

    async def record(self, *records: StepRecord, messages: Sequence[NewMessage] = (), state: Any = None) -> None:
        await self._journal.record(*records, messages=messages, state=state)

    def find(self, key: str) -> JournalEntry | None:
        return self._journal.find(key)

    def unreplayed(self) -> tuple[str, ...]:
        own = (key for key in self._journal.unreplayed() if key.startswith(self.prefix))
        return tuple(key for key in own if not self._is_claimed(key))

    def _is_claimed(self, key: str) -> bool:
        found = _DIGEST.search(key)
        return found is not None and self._claims[found[1]] > 0
