"""What CrewAI does for every kickoff and Callboard does not need, switched off. Checked against crewai 1.15.30.

Each trim has a guard test: when CrewAI changes what is trimmed here, the test says so.
"""

from __future__ import annotations

from typing import Any

from pydantic import PrivateAttr

from callboard_runtime.llm.libraries import Crew

CHECKED_VERSION = "1.15.30"


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
