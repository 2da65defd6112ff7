"""`sessions.state_snapshot`: what an actor must know of a session to decide its next command, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.domain.usage import UsageTotals

SCHEMA_VERSION = 1


class RunStatus(StrEnum):
    QUEUED = "queued"  # accepted: waits for its turn, or for a worker
    RUNNING = "running"  # an attempt holds the session's epoch
    AWAITING_INPUT = "awaiting_input"  # paused for tool results or approvals; holds nothing
    CANCELLING = "cancelling"  # no step is granted any more
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = frozenset({RunStatus.SUCCEEDED, RunStatus.FAILED, RunStatus.CANCELLED})


class SessionStatus(StrEnum):
    IDLE = "idle"
    ACTIVE = "active"
    AWAITING_INPUT = "awaiting_input"
    DELETED = "deleted"


class ToolCallStatus(StrEnum):
    PENDING_APPROVAL = "PENDING_APPROVAL"
    PENDING_RESULT = "PENDING_RESULT"
    APPROVED = "APPROVED"
    EXECUTED = "EXECUTED"
    REJECTED = "REJECTED"
    EXPIRED = "EXPIRED"
    OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"


OPEN_CALLS = frozenset({ToolCallStatus.PENDING_APPROVAL, ToolCallStatus.PENDING_RESULT, ToolCallStatus.OUTCOME_UNKNOWN})


_set = object.__setattr__


class Frozen(BaseModel):
    """A value that is replaced, never changed."""

    model_config = ConfigDict(frozen=True)

    def but(self, **changes: Any) -> Self:
        """A copy with some fields replaced; the values are taken as they are, without validation."""
        # What model_copy does, in half the time: an actor makes a dozen of these for every command.
        copy = self.__class__.__new__(self.__class__)
        _set(copy, "__dict__", {**self.__dict__, **changes})
        _set(copy, "__pydantic_fields_set__", self.__pydantic_fields_set__ | changes.keys())
        _set(copy, "__pydantic_extra__", None)
        _set(copy, "__pydantic_private__", None)
        return copy


class PendingToolCall(Frozen):
    """A tool call that a paused run waits for, or has just got the answer of."""

    tool_call_id: str
    tool_name: str = ""
    args: dict[str, Any] = Field(default_factory=dict)
    mode: ToolMode = ToolMode.BACKEND_APPROVAL_INTERRUPT
    status: ToolCallStatus = ToolCallStatus.PENDING_APPROVAL
    run_id: str = ""
    interrupt_id: str | None = None  # approvals only: what the client answers to
    requested_at: datetime | None = None
    expires_at: datetime | None = None
    message: str | None = None  # what the human is asked
    response_schema: dict[str, Any] | None = None  # of an approval's payload
    answered_by: str | None = None
    answer_digest: str | None = None  # the same answer again gets the first reply again
    answer: Any = None  # in the journal only; a snapshot does not keep it


class OpenStep(Frozen):
    """A step that was begun and not recorded; kept so that its model call can be closed as lost."""

    kind: str
    provider: str = ""
    model: str = ""
    input_tokens: int = 0  # estimate, taken when the step began
    input_price: str | None = None  # US dollars per token, decimal text
    output_price: str | None = None


class ActiveRun(Frozen):
    """The run that has the session's turn; at most one."""

    run_id: UUID
    client_run_id: str
    agent_id: str = "default"
    status: RunStatus = RunStatus.QUEUED
    leg: int = 1
    leg_run_id: str = ""  # the runId that the client used for this leg
    leg_started: bool = False  # RUN_STARTED of this leg is committed
    attempt_id: UUID | None = None  # the open attempt
    process: str | None = None
    attempts_without_progress: int = 0
    last_ordinal: int = 0  # number of the epoch's last worker command that took effect
    open_steps: Mapping[str, OpenStep] = Field(default_factory=dict)
    deadline: datetime | None = None
    cancel_by: datetime | None = None  # when a cancelling run is ended by force
    withdraw: bool = False  # rollback: its messages are withdrawn at its end
    usage: UsageTotals = UsageTotals()
    leg_usage: Mapping[str, UsageTotals] = Field(default_factory=dict)  # "<provider>/<model>" -> this leg's calls


class QueuedRun(Frozen):
    """An accepted run that waits for its turn; its input is in its row."""

    run_id: UUID
    client_run_id: str
    agent_id: str = "default"


class StateSnapshot(Frozen):
    """The state of one session; written by its actor only, replaced in the commit of every command."""

    schema_version: int = SCHEMA_VERSION
    session_id: str = ""
    user_id: str = ""
    thread_id: str = ""
    status: SessionStatus = SessionStatus.IDLE
    epoch: int = 0  # the last one taken
    closed_epoch: int = 0  # the last epoch that its own worker closed,
    closed_ordinal: int = 0  # and the number of the command that did: a repetition of it is answered, not refused
    log_epoch: int = 0
    log_seq: int = 0
    message_count: int = 0
    active: ActiveRun | None = None
    queue: tuple[QueuedRun, ...] = ()
    pending_tool_calls: tuple[PendingToolCall, ...] = ()
    shared_state: Any = None
    usage: UsageTotals = UsageTotals()

    @classmethod
    def new(cls, session_id: UUID | str = "", **fields: Any) -> Self:
        """A fresh session's state; `fields` are any of the model's own."""
        return cls(session_id=str(session_id), **fields)

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """Read a stored snapshot of any known schema version."""
        return cls.model_validate(upgrade(dict(stored)))

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True) | {"schema_version": self.schema_version}

    @property
    def log_position(self) -> EventId:
        """The id of the last committed event; `0-0` for an empty log."""
        return EventId(self.log_epoch, self.log_seq) if self.log_epoch else ORIGIN


def upgrade(stored: dict[str, Any]) -> dict[str, Any]:
    """Bring a stored snapshot to the present schema, one version at a time; raises ValueError for a future one."""
    version = int(stored.get("schema_version", SCHEMA_VERSION))
    if version > SCHEMA_VERSION:
        raise ValueError(f"state_snapshot has schema_version {version}; this release reads up to {SCHEMA_VERSION}")
    return stored
