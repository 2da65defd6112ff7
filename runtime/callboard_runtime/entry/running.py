"""The attempts that run in this process: listed in its heartbeat, told of cancellations, released at shutdown."""

from __future__ import annotations

import threading
from collections.abc import Generator
from contextlib import contextmanager
from uuid import UUID

from callboard_runtime.entry.attempt import Attempt, Halt


class RunningAttempts:
    """Changed on the worker's loop only; `ids` and `free` may be read from any thread."""

    def __init__(self, slots: int) -> None:
        """`slots` is the number of runs that this process takes at once."""
        self._slots = slots
        self._attempts: dict[UUID, Attempt | None] = {}
        self._lock = threading.Lock()
        self.draining = False

    def __len__(self) -> int:
        return len(self._attempts)

    def ids(self) -> tuple[UUID, ...]:
        with self._lock:
            return tuple(self._attempts)

    def free(self) -> int:
        """How many more runs this process takes; none once it shuts down."""
        return 0 if self.draining else max(0, self._slots - len(self._attempts))

    @contextmanager
    def listed(self, attempt_id: UUID) -> Generator[None]:
        """Count an attempt as alive, from before it asks for its epoch until it is over."""
        with self._lock:
            self._attempts[attempt_id] = None
        try:
            yield
        finally:
            with self._lock:
                del self._attempts[attempt_id]

    def granted(self, attempt_id: UUID, attempt: Attempt) -> None:
        """The attempt holds an epoch: it can be told things now."""
        with self._lock:
            self._attempts[attempt_id] = attempt
        if self.draining:
            attempt.halt(Halt.SHUTDOWN)

    def cancel(self, run_id: UUID, epoch: int) -> None:
        """Stop the attempt that holds this epoch of the run, if it is here."""
        for attempt in self._granted():
            if attempt.hold.leg.run_id == run_id and attempt.hold.epoch == epoch:
                attempt.halt(Halt.CANCELLED)

    def shut_down(self) -> None:
        """Take no more runs, and have each release its own at the next step boundary."""
        self.draining = True
        for attempt in self._granted():
            attempt.halt(Halt.SHUTDOWN)

    def _granted(self) -> list[Attempt]:
        return [attempt for attempt in self._attempts.values() if attempt is not None]
