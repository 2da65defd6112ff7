"""What a worker is told of the run it was given: read once from the database, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.domain.state_snapshot import PendingToolCall

if TYPE_CHECKING:
    from callboard_runtime.config.resolver import RuntimeConfig


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """One message of the conversation as the model is to see it."""

    role: str
    content: Any  # text, AG-UI content parts, or None beside tool calls
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


@dataclass(frozen=True, slots=True)
class JournalRow:
    """A step of an earlier attempt: `recorded` and `failed` ones are replayed, an `unknown` tool is never run again."""

    key: str
    kind: str  # model, tool
    name: str
    digest: str
    status: str  # begun, recorded, failed, cancelled, lost, unknown
    result: Any
    epoch: int
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class RunBrief:
    """A leg of a run, as pinned: its configuration, input, history, and the journal of the attempts before this one."""

    session_id: UUID
    run_id: UUID
    user_id: str
    thread_id: str
    leg_run_id: str  # the runId that the client uses for this leg
    agent_id: str
    leg: int
    config: RuntimeConfig
    input: RunInput
    history: tuple[HistoryMessage, ...] = ()
    journal: tuple[JournalRow, ...] = ()  # in the order of their commits
    initial_state: Any = None  # the shared state when the run began: what its prompts show, in every attempt
    shared_state: Any = None  # as the recorded steps left it
    answers: tuple[PendingToolCall, ...] = ()  # the settled calls of the pauses so far, for a resumed leg
    log_before: EventId = ORIGIN  # the last event before this epoch
    trace: str | None = None  # the span that asked for this leg, in W3C form
    former_trace: str | None = None  # that of the leg before
