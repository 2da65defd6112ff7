"""What one run showed to the user who started it."""

from __future__ import annotations

from dataclasses import dataclass

from callboard_runtime.load.plan import Kind


@dataclass(frozen=True, slots=True)
class Marks:
    """Seconds from the moment the run was to start; None for what did not happen."""

    accepted: float | None = None  # the 202
    started: float | None = None  # RUN_STARTED
    step: float | None = None  # the first STEP_STARTED
    token: float | None = None  # the first output of the model: text, reasoning or a tool call
    ended: float | None = None  # the closing event of the last leg


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. `error` is a code, `faults` are broken promises about its events."""

    run_id: str
    kind: Kind
    began: float  # seconds since the test began
    marks: Marks
    events: int = 0
    legs: int = 0
    connections: int = 0
    error: str | None = None
    faults: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        return self.error is None and not self.faults
