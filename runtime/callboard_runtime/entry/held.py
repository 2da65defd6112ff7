"""Records that wait a moment for the next command to take them along: every command saved is a commit saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from callboard_runtime.domain.commands import BeginStep, FinishRun, RecordStep, ReleaseRun, RequestTools, StepRecord
from callboard_runtime.domain.run_input import NewMessage

LINGER = 0.25  # seconds after which records travel alone
MAX_HELD_BYTES = 64 * 1024  # what does not fit travels at once, so that the command that is due has room for its own

Carrier = TypeVar("Carrier", BeginStep, RecordStep, ReleaseRun, FinishRun, RequestTools)


@dataclass(frozen=True, slots=True)
class Work:
    """What steps came to, with the messages they made."""

    records: tuple[StepRecord, ...] = ()
    messages: tuple[NewMessage, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.records or self.messages)

    def on(self, command: Carrier) -> Carrier:
        """The command with this work before its own."""
        if not self:
            return command
        return command.but(records=(*self.records, *command.records), messages=(*self.messages, *command.messages))

    def bytes(self) -> int:
        """Its size inside a command."""
        return sum(len(item.model_dump_json().encode()) + 1 for item in (*self.records, *self.messages))


class HeldWork:
    """Work in the order of its coming; `on_overdue` is called when nothing has taken it along in time."""

    def __init__(self, on_overdue: Callable[[], None]) -> None:
        self._on_overdue = on_overdue
        self._work = Work()
        self._bytes = 0  # of the work
        self._away = 0  # bytes of what was taken and not sent yet: it may come back
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._work)

    def hold(self, work: Work) -> bool:
        """Keep the work if it may wait: losing it with the process costs no more than asking a model again.

        A tool's outcome may not: nobody could say later whether the tool had run. Nor may what, with the rest, would
        be more than MAX_HELD_BYTES.
        """
        if not all(record.usage is not None for record in work.records):
            return False
        if (size := work.bytes()) + self._bytes + self._away > MAX_HELD_BYTES:
            return False
        self._work = Work((*self._work.records, *work.records), (*self._work.messages, *work.messages))
        self._bytes += size
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._overdue)
        return True

    def take(self) -> Work:
        """All of it; whoever takes it says that it was `sent`, or puts it back."""
        work, self._work = self._work, Work()
        self._away, self._bytes = self._bytes, 0
        self._stop()
        return work

    def sent(self) -> None:
        """What was taken has taken effect: there is room for as much again."""
        self._away = 0

    def put_back(self, work: Work) -> None:
        """The command that carried it was refused: it is still due, before what has come since."""
        self._work = Work((*work.records, *self._work.records), (*work.messages, *self._work.messages))
        self._bytes, self._away = self._bytes + self._away, 0

    def drop(self) -> None:
        """Nothing more is sent."""
        self._work = Work()
        self._bytes = self._away = 0
        self._stop()

    def _overdue(self) -> None:
        self._timer = None
        self._on_overdue()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
