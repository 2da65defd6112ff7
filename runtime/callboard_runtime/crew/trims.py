"""What CrewAI does for every kickoff and Callboard does not need, switched off. Checked against crewai 1.15.30.

Each trim has a guard test that fails when CrewAI no longer does what is trimmed here, or does it elsewhere.
"""

from __future__ import annotations

from collections.abc import Coroutine
from functools import cache
from typing import Any

from pydantic import PrivateAttr

from callboard_runtime.llm.libraries import AgentExecutor, AgentExecutorState, Crew

CHECKED_VERSION = "1.15.30"


@cache
def apply_trims() -> None:
    """Apply the process-wide trims, once, before the first crew is built."""
    from crewai.events.event_bus import CrewAIEventsBus, crewai_event_bus
    from crewai.utilities import file_store

    # The bus keeps every event and every crew of a kickoff for checkpoints, which cannot restore models of our own.
    CrewAIEventsBus._register_source = _nothing  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    CrewAIEventsBus._record_event = _nothing  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
    # CrewAI's own listeners print to a console and trace to CrewAI; each costs a hop through a thread per event.
    for handlers in (crewai_event_bus._sync_handlers, crewai_event_bus._async_handlers):  # pyright: ignore[reportPrivateUsage]
        handlers.clear()
    # Looking for uploaded files, of which there are none, starts a thread and an event loop, twice per task.
    file_store._run_sync = _no_files  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _no_files(coroutine: Coroutine[Any, Any, Any]) -> None:
    coroutine.close()


class NoTaskOutputs:
    """Takes the place of a SQLite file under HOME that keeps task outputs for CrewAI's own `replay`."""

    def update(self, task_index: int, log: dict[str, Any]) -> None: ...

    def add(self, *_: Any, **__: Any) -> None: ...

    def reset(self) -> None: ...

    def load(self) -> list[dict[str, Any]]:
        return []


class TrimmedCrew(Crew):
    """A Crew that writes nothing to disk."""

    _task_output_handler: Any = PrivateAttr(default_factory=NoTaskOutputs)


class TrimmedExecutor(AgentExecutor):
    """An executor without the state machine that CrewAI's is built on, whose state is a new class every time."""

    def _flow_post_init(self, definition: Any = None) -> None:
        if self._state is None:
            self._state = AgentExecutorState()
