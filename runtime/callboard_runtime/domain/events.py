"""What happened in a session, as its actor decided it: past tense, applied by `evolve`, written by the commit.

These are the actor's own facts. What a browser sees are AG-UI events, which travel inside `EventsCommitted`.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import PendingToolCall, QueuedRun, RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import Refused

SUPERSEDED = "superseded"
"""The outcome of an attempt whose run another one took."""


@dataclass(frozen=True, slots=True)
class SessionOpened:
    session_id: UUID
    user_id: str
    thread_id: str
    title: str | None = None  # the beginning of the first message


@dataclass(frozen=True, slots=True)
class RunAccepted:
    """The run exists and waits for its turn; it is durable from here on."""

    run: QueuedRun
    user_id: str
    digest: str
    input: RunInput
    config: dict[str, Any]


@dataclass(frozen=True, slots=True)
class RunActivated:
    """The run has the session's turn; a worker is woken for its first leg."""

    run: QueuedRun
    deadline: datetime
    state: Any = None  # the shared state that it begins with


@dataclass(frozen=True, slots=True)
class RunDequeued:
    """A waiting run lost its place without having had its turn."""

    run_id: UUID


@dataclass(frozen=True, slots=True)
class LegOpened:
    """The run goes on in a new leg, under the runId that the client uses from here on."""

    run_id: UUID
    leg: int
    client_run_id: str
    digest: str
    deadline: datetime | None


@dataclass(frozen=True, slots=True)
class RunDispatched:
    """A worker is to be woken for the run's present leg."""

    run_id: UUID
    leg: int


@dataclass(frozen=True, slots=True)
class MessagesAppended:
    """`messages[i]` has the seq `first_seq + i`."""

    run_id: UUID
    first_seq: int
    messages: tuple[NewMessage, ...]


@dataclass(frozen=True, slots=True)
class MessagesWithdrawn:
    run_id: UUID


@dataclass(frozen=True, slots=True)
class AttemptStarted:
    run_id: UUID
    leg: int
    attempt_id: UUID
    process: str
    epoch: int
    deadline: datetime


@dataclass(frozen=True, slots=True)
class EpochTaken:
    """The actor itself took the epoch, to end a run that no worker will end."""

    run_id: UUID
    leg: int
    epoch: int


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    attempt_id: UUID
    outcome: str  # finished, paused, released, SUPERSEDED, ended


@dataclass(frozen=True, slots=True)
class CommandApplied:
    """A worker command took effect; a repetition of it changes nothing."""

    ordinal: int


@dataclass(frozen=True, slots=True)
class EventsCommitted:
    """AG-UI events joined the log, right after `previous`. `publish`: nobody has sent them yet."""

    run_id: UUID
    leg: int
    batch: EventBatch
    previous: EventId
    closing: bool
    publish: bool


@dataclass(frozen=True, slots=True)
class StepsBegun:
    run_id: UUID
    epoch: int
    steps: tuple[StepBegin, ...]


@dataclass(frozen=True, slots=True)
class StepsRecorded:
    run_id: UUID
    epoch: int
    records: tuple[StepRecord, ...]


@dataclass(frozen=True, slots=True)
class StepLost:
    """A begun step will not be recorded any more; a model call's usage is an estimate, a tool's outcome is unknown."""

    run_id: UUID
    epoch: int
    key: str
    kind: str
    usage: CallUsage | None


@dataclass(frozen=True, slots=True)
class StateChanged:
    state: Any


@dataclass(frozen=True, slots=True)
class RunCancelRequested:
    """No step is granted any more; the worker has until `cancel_by` to end the run itself."""

    run_id: UUID
    cancel_by: datetime
    withdraw: bool


@dataclass(frozen=True, slots=True)
class WorkerTold:
    """The worker process that runs the attempt is to be told of the cancellation."""

    run_id: UUID
    process: str
    epoch: int


@dataclass(frozen=True, slots=True)
class ToolsRequested:
    """The run paused for these calls; `closing` events went with them."""

    run_id: UUID
    calls: tuple[PendingToolCall, ...]


@dataclass(frozen=True, slots=True)
class ToolCallSettled:
    """A pending call got its one outcome."""

    run_id: UUID
    call: PendingToolCall


@dataclass(frozen=True, slots=True)
class CommandRefused:
    """The command changed nothing, and that it came is on record."""

    error: Refused


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The run's terminal; never followed by anything of the same run."""

    run_id: UUID
    status: RunStatus
    error_code: str | None = None
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class ReadersPoked:
    """Readers of the session are to look at the log: something ended without an event."""

    run_id: UUID | None


@dataclass(frozen=True, slots=True)
class SessionDeleted:
    session_id: UUID


@dataclass(frozen=True, slots=True)
class SessionPruned:
    """Events, journals and rows of runs that ended before these times are gone."""

    session_id: UUID
    events_before: datetime | None
    journals_before: datetime | None
    runs_before: datetime | None


@dataclass(frozen=True, slots=True)
class Audited:
    actor: str
    action: str
    run_id: UUID | None
    subject: str | None
    details: dict[str, Any]


Event = (
    SessionOpened
    | RunAccepted
    | RunActivated
    | RunDequeued
    | LegOpened
    | RunDispatched
    | MessagesAppended
    | MessagesWithdrawn
    | AttemptStarted
    | EpochTaken
    | AttemptEnded
    | CommandApplied
    | EventsCommitted
    | StepsBegun
    | StepsRecorded
    | StepLost
    | StateChanged
    | RunCancelRequested
    | WorkerTold
    | ToolsRequested
    | ToolCallSettled
    | CommandRefused
    | RunEnded
    | ReadersPoked
    | SessionDeleted
    | SessionPruned
    | Audited
)
