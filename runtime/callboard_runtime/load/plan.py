"""What a load test does, checked before it begins."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from callboard_runtime.errors import InvalidInput

MESSAGE = "say 64 tokens at 10 ms"
TOOL_MESSAGE = 'call ui.confirm with {"question": "go on?"}'
FRONTEND_TOOL: dict[str, Any] = {
    "name": "ui.confirm",
    "description": "Asks the user to confirm something.",
    "parameters": {"type": "object", "properties": {"question": {"type": "string"}}},
}
CUT_WITHIN = 30  # events of a leg after which a cut stream is cut at the latest


class Kind(StrEnum):
    """What a run is to exercise."""

    PLAIN = "plain"
    FRONTEND_TOOL = "frontend-tool"
    APPROVAL = "approval"


@dataclass(frozen=True, slots=True)
class Plan:
    """Closed loop: `concurrency` users, each with one run at a time. Open loop: `rate` runs per second.

    Ends after `runs` runs or `duration` seconds, whichever comes first. Shares are between 0 and 1, times in seconds.
    """

    concurrency: int = 10
    rate: float | None = None
    max_in_flight: int = 2000  # open loop only: arrivals beyond it are missed, and counted
    duration: float | None = 10.0
    runs: int | None = None
    users: int = 1
    runs_per_session: int = 1
    reconnect_share: float = 0.0
    frontend_tool_share: float = 0.0
    approval_share: float = 0.0
    think: float = 0.0
    agent_id: str | None = None
    message: str = MESSAGE
    tool_message: str = TOOL_MESSAGE
    approval_message: str | None = None
    patience: float = 60.0
    verify: bool = True
    seed: int = 0

    def checked(self) -> Plan:
        """This plan; raises InvalidInput that names the option and the fix."""
        if self.duration is None and self.runs is None:
            raise InvalidInput("--duration, --runs: name one of them, or the test would never end")
        for name in ("concurrency", "max_in_flight", "users", "runs_per_session"):
            _check(getattr(self, name) >= 1, name, "must be 1 or more")
        for name in ("rate", "duration", "runs"):
            value = getattr(self, name)
            _check(value is None or value > 0, name, "must be more than 0")
        for name in ("reconnect_share", "frontend_tool_share", "approval_share"):
            _check(0 <= getattr(self, name) <= 1, name, "must be between 0 and 1")
        _check(self.think >= 0, "think", "must be 0 or more")
        _check(
            self.frontend_tool_share + self.approval_share <= 1, "approval_share", "the shares add up to more than 1"
        )
        if self.approval_share and not self.approval_message:
            raise InvalidInput("--approval-message: name a message that makes the model call a tool with approval")
        return self

    def kind(self, chance: random.Random) -> Kind:
        drawn = chance.random()
        if drawn < self.frontend_tool_share:
            return Kind.FRONTEND_TOOL
        return Kind.APPROVAL if drawn < self.frontend_tool_share + self.approval_share else Kind.PLAIN

    def text(self, kind: Kind) -> str:
        texts = {Kind.FRONTEND_TOOL: self.tool_message, Kind.APPROVAL: self.approval_message}
        return texts.get(kind) or self.message

    def cut_after(self, chance: random.Random) -> int | None:
        """After how many events of a leg its stream is cut; None leaves it whole."""
        return chance.randint(1, CUT_WITHIN) if chance.random() < self.reconnect_share else None


def _check(holds: bool, name: str, problem: str) -> None:
    if not holds:
        raise InvalidInput(f"--{name.removesuffix('_share').replace('_', '-')}: {problem}")
