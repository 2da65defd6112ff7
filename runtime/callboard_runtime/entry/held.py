"""Records that wait a moment for the next command to take them along: every command saved is a commit saved."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import orjson

from callboard_runtime.domain.commands import BeginStep, FinishRun, RecordStep, ReleaseRun, RequestTools, StepRecord
from callboard_runtime.domain.run_input import NewMessage

LINGER = 0.25  # seconds after which records travel alone
SMALL = 64 * 1024  # bytes; a larger record travels at once, so that the command that is due stays small

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


def may_wait(records: Sequence[StepRecord]) -> bool:
    """Whether losing these records with the process costs no more than asking a model again.

    A tool's outcome is never held back: nobody could say later whether the tool had run.
    """
    return all(record.usage is not None for record in records) and sum(map(_size, records)) <= SMALL


def _size(record: StepRecord) -> int:
    return len(orjson.dumps(record.result))


class HeldWork:
    """Work in the order of its coming; `on_overdue` is called when nothing has taken it along in time."""

    def __init__(self, on_overdue: Callable[[], None]) -> None:
        self._on_overdue = on_overdue
        self._work = Work()
        self._timer: asyncio.TimerHandle | None = None

    def __bool__(self) -> bool:
        return bool(self._work)

    def add(self, work: Work) -> None:
        self._work = Work((*self._work.records, *work.records), (*self._work.messages, *work.messages))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LINGER, self._overdue)

    def take(self) -> Work:
        """All of it; whoever takes it sends it, or puts it back."""
        work, self._work = self._work, Work()
        self._stop()
        return work

    def put_back(self, work: Work) -> None:
        """The command that carried it was refused: it is still due, before what has come since."""
        self._work = Work((*work.records, *self._work.records), (*work.messages, *self._work.messages))

    def drop(self) -> None:
        """Nothing more is sent."""
        self._work = Work()
        self._stop()

    def _overdue(self) -> None:
        self._timer = None
        self._on_overdue()

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
