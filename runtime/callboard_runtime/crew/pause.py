"""The ways out of a crew that CrewAI cannot swallow: it catches Exception in many places, BaseException in none."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from typing import Literal

from callboard_runtime.domain.state_snapshot import PendingToolCall
from callboard_runtime.errors import CallboardError, Fenced, RunCancelling

StopReason = Literal["cancel", "release"]


class RunPaused(BaseException):
    """The turn needs answers from outside; every direct call of it is recorded."""

    def __init__(self, calls: tuple[PendingToolCall, ...]) -> None:
        self.calls = calls
        super().__init__(f"waiting for {len(calls)} tool calls")


class RunStopped(BaseException):
    """The run cannot go on; carries the error that says why."""

    def __init__(self, error: CallboardError) -> None:
        self.error = error
        super().__init__(error.code)


class RunReleased(Fenced):
    """This process is shutting down; another attempt goes on with the run."""

    code = "RUN_RELEASED"


class ReplayDiverged(CallboardError):
    """The crew did something else than the journal recorded."""

    code = "REPLAY_DIVERGED"


class StopSignal:
    """Asks a run to stop: `cancel` interrupts a model stream, `release` waits for the next step boundary.

    Tools are never interrupted: what a half-done side effect came to would be unknown. Used on one loop only.
    """

    def __init__(self) -> None:
        self.reason: StopReason | None = None
        self._interruptible: set[asyncio.Task[object]] = set()

    def stop(self, reason: StopReason) -> None:
        """Ask once or again; a cancel outranks a release."""
        if self.reason != "cancel":
            self.reason = reason
        if reason == "cancel":
            for task in tuple(self._interruptible):
                task.cancel()

    def check(self) -> None:
        """Call at a step boundary; raises RunCancelling or RunReleased when the run is to stop there."""
        if self.reason == "cancel":
            raise RunCancelling
        if self.reason == "release":
            raise RunReleased

    @contextmanager
    def interruptible(self) -> Generator[None]:
        """A cancel inside this block raises RunCancelling out of it; a cancelled task stays a cancelled task."""
        task = asyncio.current_task()
        assert task is not None
        pending = task.cancelling()
        self._interruptible.add(task)
        try:
            if self.reason == "cancel":
                raise RunCancelling
            yield
        except asyncio.CancelledError:
            if self.reason != "cancel" or task.cancelling() != pending + 1:
                raise
            task.uncancel()
            raise RunCancelling from None
        finally:
            self._interruptible.discard(task)
