"""What the server tells about events, runs, sessions and messages. Members it may add later are ignored."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from pydantic import BaseModel, ConfigDict

from callboard_runtime.domain.event_batch import AguiEvent, EventId
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus

CLOSING = frozenset({"RUN_FINISHED", "RUN_ERROR"})


@dataclass(frozen=True, slots=True)
class Event:
    """One AG-UI event; `id` is None for what is said to this reader alone and is in no log."""

    id: EventId | None
    data: AguiEvent

    @property
    def type(self) -> str:
        return str(self.data.get("type"))

    @property
    def delta(self) -> str:
        """The text that this event adds to a message; empty for every other event."""
        return str(self.data.get("delta", "")) if self.type == "TEXT_MESSAGE_CONTENT" else ""

    @property
    def closing(self) -> bool:
        """Whether it ends its leg, and with it the stream."""
        return self.type in CLOSING

    @property
    def interrupts(self) -> list[dict[str, Any]]:
        """The open questions that a paused leg ends with."""
        return list(self._outcome.get("interrupts", ()))

    @property
    def pending_tool_calls(self) -> list[str]:
        """The ids of the calls that a leg leaves to its client."""
        return list(self._outcome.get("pendingToolCallIds", ()))

    @property
    def _outcome(self) -> dict[str, Any]:
        return self.data.get("outcome") or {}


class _View(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class AcceptedRun(_View):
    """A run that is durable. After `resume`, `leg` says which part of it comes next."""

    run_id: str
    session_id: str  # the thread, as the client named it
    task_id: str
    status: RunStatus
    leg: int = 1
    events_url: str


class Usage(_View):
    """Tokens and US dollars; `cost` leaves out the calls whose price is unknown, which `unpriced_calls` counts."""

    calls: int | None = None  # of a run; a session does not count them
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: Decimal | None
    unpriced_calls: int


class RunFailure(_View):
    code: str
    message: str | None = None


class Leg(_View):
    """From the start, or an answer, to a pause, or the end; `last_event_id` is that of its closing event."""

    leg: int
    run_id: str
    last_event_id: str | None
    created_at: datetime
    ended_at: datetime | None


class RunView(_View):
    """Where a run stands, and what it cost so far."""

    run_id: str
    session_id: str
    agent_id: str
    status: RunStatus
    error: RunFailure | None
    legs: tuple[Leg, ...]
    usage: Usage
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class SessionView(_View):
    """A session and its totals."""

    session_id: str
    title: str | None
    status: SessionStatus
    message_count: int
    last_message_at: datetime | None
    last_event_id: str | None
    usage: Usage
    created_at: datetime
    updated_at: datetime


class Message(_View):
    """A message of a session; `seq` orders them."""

    seq: int
    id: str
    run_id: str | None
    role: str
    content: Any
    tool_calls: Any = None
    tool_call_id: str | None = None
    name: str | None = None
    withdrawn: bool = False
    created_at: datetime
