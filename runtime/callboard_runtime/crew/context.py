"""What the parts of one running crew share, found through context variables: CrewAI makes its executors itself."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.pause import StopSignal
from callboard_runtime.crew.ports import Journal
from callboard_runtime.crew.stages import StageSteps
from callboard_runtime.settings import RunSettings
from callboard_runtime.tools.state import SharedState

if TYPE_CHECKING:
    from callboard_runtime.crew.turn import Turn


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the crew something happens; `below` are the ids of the calls that led there, such as `/call_1`."""

    stage: str
    below: str = ""

    @property
    def path(self) -> str:
        return self.stage + self.below

    def under(self, call_id: str) -> Place:
        return Place(self.stage, f"{self.below}/{call_id}")


@dataclass(slots=True)
class RunContext:
    """One running crew."""

    loop: asyncio.AbstractEventLoop
    journal: Journal
    stream: RunStream
    steps: StageSteps
    stop: StopSignal
    settings: RunSettings
    turn: Turn = field(init=False)
    user_id: str = ""
    thread_id: str = ""
    run_id: UUID | None = None
    leg_run_id: str = ""
    state: SharedState = field(default_factory=SharedState)
    tools: frozenset[str] = frozenset()  # backend tools of any agent of the run
    # Tool calls whose process died inside the tool, and the epoch in which it was started last.
    unknown: Mapping[str, int] = field(default_factory=dict[str, int])


CURRENT: ContextVar[RunContext] = ContextVar("callboard_run")
PLACE: ContextVar[Place | None] = ContextVar("callboard_place", default=None)
