"""A journal that lives and dies with its process: for crews that are only looked at, and for tests."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.entry.brief import JournalRow


class MemoryJournal:
    """Keeps what was begun and recorded, in order; `rows` are what the next attempt would be given."""

    def __init__(self, rows: Iterable[JournalRow] = ()) -> None:
        self._earlier = {row.key: row for row in rows}
        self._unasked = {row.key: None for row in self._earlier.values() if row.status == "recorded"}
        self.begun: list[StepBegin] = []
        self.recorded: list[StepRecord] = []
        self.messages: list[NewMessage] = []
        self.state: Any = None  # the shared state that was recorded last

    async def begin(self, *steps: StepBegin) -> None:
        self.begun.extend(steps)

    async def record(self, *records: StepRecord, messages: Sequence[NewMessage] = (), state: Any = None) -> None:
        self.state = self.state if state is None else state
        self.recorded.extend(records)
        self.messages.extend(messages)

    def find(self, key: str) -> JournalRow | None:
        self._unasked.pop(key, None)
        return self._earlier.get(key)

    def unreplayed(self) -> tuple[str, ...]:
        return tuple(self._unasked)

    def rows(self) -> tuple[JournalRow, ...]:
        """Earlier rows, then this attempt's; a begun model call without a record is `lost`, a tool `unknown`."""
        records = {record.key: record for record in self.recorded}
        made = dict(self._earlier)
        for step in self.begun:
            record = records.get(step.key)
            status = record.outcome if record else ("unknown" if step.kind == "tool" else "lost")
            result = record.result if record else None
            made[step.key] = JournalRow(
                step.key, step.kind, step.name, step.digest, status, result, 1, step.tool_call_id
            )
        return tuple(made.values())


class MemorySink:
    """Keeps the events it is given."""

    def __init__(self) -> None:
        self.events: list[AguiEvent] = []

    def emit(self, event: AguiEvent) -> None:
        self.events.append(event)
