"""What operators are shown. Lists hold no content: neither titles, nor messages, nor arguments."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, BeforeValidator, ConfigDict, JsonValue, PlainSerializer

from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus, ToolCallStatus


def _plain(value: Decimal) -> str:
    return f"{value.normalize():f}"


Money = Annotated[Decimal, PlainSerializer(_plain, return_type=str, when_used="json")]
"""US dollars, as decimal text in JSON."""

# asyncpg's UUID is a subclass that pydantic would warn about when it writes JSON.
Id = Annotated[UUID, BeforeValidator(lambda value: UUID(str(value)))]


class View(BaseModel):
    model_config = ConfigDict(frozen=True, from_attributes=True)


class Usage(View):
    """Tokens and money; `cost` leaves out the `unpriced_calls`, whose price is unknown."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: Money
    unpriced_calls: int


# -- sessions ---------------------------------------------------------------------------------------------------------


class SessionLine(View):
    """A session in a list; `id` is internal, `session_id` is the client's threadId, unique per user."""

    id: Id
    session_id: str
    user_id: str
    status: SessionStatus
    message_count: int
    usage: Usage
    created_at: datetime
    updated_at: datetime


class SessionList(View):
    sessions: tuple[SessionLine, ...]
    next: str | None  # the `after` of the next page


class SessionDetail(View):
    """One session: where its state stands, and who owns its partition."""

    session: SessionLine
    title: str | None
    last_event_id: str | None
    epoch: int
    partition: int
    partition_owner: str | None
    active_run: Id | None
    queued_runs: tuple[Id, ...]
    deleted_at: datetime | None


# -- runs -------------------------------------------------------------------------------------------------------------


class RunLine(View):
    """A run in a list; `id` and `session` are internal, `run_id` and `session_id` are the client's."""

    id: Id
    run_id: str
    session: Id
    session_id: str
    user_id: str
    agent_id: str
    status: RunStatus
    leg: int
    calls: int
    usage: Usage
    error_code: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class RunList(View):
    runs: tuple[RunLine, ...]
    next: str | None


class LegLine(View):
    """From start to pause or end; `run_id` is the client's for this leg."""

    leg: int
    run_id: str
    first_epoch: int | None
    last_event_id: str | None
    created_at: datetime
    ended_at: datetime | None


class AttemptLine(View):
    """One execution of a leg, which wrote the events of its epoch."""

    attempt_id: Id
    leg: int
    epoch: int
    process: str
    outcome: str | None
    started_at: datetime
    ended_at: datetime | None


class StepLine(View):
    """One row of the journal; `result` is its JSON, cut after some thousand characters of `result_length`."""

    position: int
    key: str
    kind: str
    name: str
    epoch: int
    status: str
    tool_call_id: str | None
    result: str | None
    result_length: int
    error: str | None
    begun_at: datetime
    recorded_at: datetime | None


class CallLine(View):
    """One provider request."""

    key: str
    epoch: int
    stage: str
    provider: str
    model: str
    status: str
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: Money | None
    estimated: bool
    first_token_ms: int | None
    latency_ms: int | None
    begun_at: datetime
    ended_at: datetime | None


class MessageLine(View):
    """A message of the run; `content` is text, or JSON text, cut after some thousand characters."""

    seq: int
    role: str
    content: str | None
    tool_call_id: str | None
    withdrawn: bool
    created_at: datetime


class AuditLine(View):
    """Who did what, when."""

    at: datetime
    actor: str
    action: str
    subject: str | None
    details: dict[str, JsonValue]


class OpenCall(View):
    """A tool call that the run waits for, with its arguments."""

    tool_call_id: str
    interrupt_id: str | None
    tool_name: str
    status: ToolCallStatus
    message: str | None
    args: dict[str, JsonValue]
    requested_at: datetime | None
    expires_at: datetime | None


class RunDetail(View):
    """One run whole; `cut` names the parts of which only the newest rows are shown."""

    run: RunLine
    error_message: str | None
    deadline: datetime | None
    cancel_by: datetime | None
    legs: tuple[LegLine, ...]
    attempts: tuple[AttemptLine, ...]
    steps: tuple[StepLine, ...]
    calls: tuple[CallLine, ...]
    messages: tuple[MessageLine, ...]
    open_calls: tuple[OpenCall, ...]
    audit: tuple[AuditLine, ...]
    cut: tuple[str, ...]


# -- approvals --------------------------------------------------------------------------------------------------------


class ApprovalLine(View):
    """A call that a person has to decide on; its arguments are in the run."""

    interrupt_id: str
    tool_call_id: str
    tool_name: str
    status: ToolCallStatus
    run: Id
    run_id: str
    session: Id
    session_id: str
    user_id: str
    agent_id: str
    requested_at: datetime | None
    expires_at: datetime | None


class ApprovalList(View):
    """Of the runs that have waited longest, those with an open approval."""

    approvals: tuple[ApprovalLine, ...]
    next: str | None


# -- the system -------------------------------------------------------------------------------------------------------


class ProcessLine(View):
    """A process as its heartbeats tell; `silent` is seconds since the last one, by the database's clock."""

    id: str
    kind: str
    host: str
    pid: int | None
    slots: int
    attempts: tuple[Id, ...]
    started_at: datetime
    beat_at: datetime
    silent: float
    alive: bool


class PartitionLine(View):
    """Who last took a partition, which happens with its first command; `owner_alive` is None if nobody ever did.

    A dead owner is replaced with the next command. Whether somebody stands ready is the broker's to say: see `Status`.
    """

    partition: int
    owner: str | None
    partition_epoch: int
    taken_at: datetime | None
    owner_alive: bool | None


class ProcessList(View):
    processes: tuple[ProcessLine, ...]


class PartitionList(View):
    partitions: tuple[PartitionLine, ...]


class RunCount(View):
    """How many runs have a status, and since when the oldest has been there."""

    status: RunStatus
    runs: int
    oldest: datetime | None


class Backlog(View):
    """What waits; counted no further than `counted_to`."""

    runs: tuple[RunCount, ...]
    outbox_due: int
    outbox_oldest: datetime | None
    counted_to: int


class Depth(View):
    """Messages that wait in a queue, or in all queues of a kind."""

    name: str
    messages: int
    consumers: int
    missing: int = 0  # queues of this kind that nobody has declared


class Service(View):
    """Whether a service answers, and what to do if not."""

    name: str
    reachable: bool
    problem: str | None = None


class Status(View):
    """The system at a glance; `problems` is empty when all is well. A part is None while its source is away.

    `partitions_unserved` are those whose queue nobody consumes: commands for their sessions wait.
    """

    problems: tuple[str, ...]
    services: tuple[Service, ...]
    processes: tuple[ProcessLine, ...] | None
    partitions_unserved: tuple[int, ...] | None
    backlog: Backlog | None
    queues: tuple[Depth, ...] | None


# -- dead letters -----------------------------------------------------------------------------------------------------


class DeadLetterLine(View):
    """A message that nobody could handle; `session` as the message names it."""

    id: str
    type: str
    session: str | None
    reason: str
    queue: str
    deaths: int
    bytes: int
    died_at: datetime | None
    age_seconds: float | None


class DeadLetterList(View):
    letters: tuple[DeadLetterLine, ...]
    total: int


class DeadLetterDetail(View):
    """One of them whole, without tokens."""

    letter: DeadLetterLine
    headers: dict[str, JsonValue]
    body: JsonValue


# -- webhooks ---------------------------------------------------------------------------------------------------------


class DeliveryStatus(StrEnum):
    OPEN = "open"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


class DeliveryLine(View):
    """What one URL, shown without its query, is told of one event; a deleted run or session has no names any more."""

    id: Id
    event_id: Id
    type: str
    url: str
    status: DeliveryStatus
    attempts: int
    last_status: int | None
    last_error: str | None
    run: Id
    run_id: str | None
    session: Id
    session_id: str | None
    user_id: str | None
    created_at: datetime
    attempted_at: datetime | None
    next_try: datetime | None
    ended_at: datetime | None


class DeliveryList(View):
    deliveries: tuple[DeliveryLine, ...]
    next: str | None
