"""Commands to a session's actor, and its replies: the only way in which anything in a session changes.

Clients' commands carry the user; worker commands carry the epoch that fences them and an ordinal (1, 2, 3… inside the
epoch) that makes a repeated one recognisable; the sweeper's carry what it saw, and the actor looks again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, TypeAdapter, ValidationError

from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.ids import ClientId, UserId
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import Frozen, PendingToolCall, RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import CallboardError, InvalidInput, TooLarge, from_code

MAX_COMMAND_BYTES = 1024 * 1024
MAX_ID = 200  # characters of an id that an answer names
MAX_CLAIM_BYTES = 32 * 1024 * 1024  # of a command that waits in the database; a request's body is smaller


class _Command(Frozen):
    session_id: UUID


# -- from clients -----------------------------------------------------------------------------------------------------


class AcceptRun(_Command):
    type: Literal["AcceptRun"] = "AcceptRun"
    user_id: UserId
    thread_id: ClientId
    run_id: ClientId
    agent_id: ClientId = "default"
    digest: str
    input: RunInput
    strategy: MultitaskStrategy | None = None  # None: enqueue, unless approvals are open
    not_after: datetime


class ToolAnswer(Frozen):
    """One answer to a pending call, named by its tool_call_id or its interrupt_id: a result, or a decision."""

    tool_call_id: str | None = Field(default=None, max_length=MAX_ID)
    interrupt_id: str | None = Field(default=None, max_length=MAX_ID)
    status: Literal["result", "approved", "rejected", "cancelled", "retry", "fail"]
    payload: Any = None
    edited_args: dict[str, Any] | None = None
    message_id: str | None = Field(default=None, min_length=1, max_length=MAX_ID)


class AcceptResume(_Command):
    type: Literal["AcceptResume"] = "AcceptResume"
    user_id: UserId
    roles: tuple[str, ...] = ()
    run_id: ClientId | None = None  # the paused run, under any runId that a leg of it had; None: the session's
    leg_run_id: ClientId  # the runId that the client uses from here on
    digest: str
    answers: tuple[ToolAnswer, ...]
    not_after: datetime


class CancelRun(_Command):
    type: Literal["CancelRun"] = "CancelRun"
    user_id: UserId
    run_id: ClientId
    reason: str | None = None
    not_after: datetime


class DeleteSession(_Command):
    type: Literal["DeleteSession"] = "DeleteSession"
    user_id: UserId
    not_after: datetime


# -- from workers -----------------------------------------------------------------------------------------------------


class _AttemptCommand(_Command):
    run_id: UUID
    epoch: int = Field(ge=1)
    ordinal: int = Field(ge=1)
    events: EventBatch | None = None  # those since the last acknowledged one


class StepBegin(Frozen):
    """A provider request or a backend tool that is about to start."""

    key: str = Field(max_length=400)
    kind: Literal["model", "tool"]
    name: str  # stage for a model call, tool name for a tool
    digest: str
    provider: str = ""
    model: str = ""
    input_tokens: int = 0
    input_price: str | None = None
    output_price: str | None = None
    tool_call_id: str | None = None


class StartRun(_Command):
    """A task execution asks for the run; `attempt_id` is minted once per execution.

    `steps` begin with it if this is the run's first attempt: any other has a journal to replay first.
    """

    type: Literal["StartRun"] = "StartRun"
    run_id: UUID
    leg: int = Field(ge=1)
    attempt_id: UUID
    process: str
    steps: tuple[StepBegin, ...] = ()


class StepRecord(Frozen):
    """What a begun step came to; `result` is what a replay will be answered with."""

    key: str = Field(max_length=400)
    outcome: Literal["recorded", "failed", "cancelled"] = "recorded"
    result: Any = None
    usage: CallUsage | None = None  # model calls only
    error: str | None = None


class BeginStep(_AttemptCommand):
    """Ask to start steps; what was finished since may travel along."""

    type: Literal["BeginStep"] = "BeginStep"
    steps: tuple[StepBegin, ...]
    records: tuple[StepRecord, ...] = ()
    messages: tuple[NewMessage, ...] = ()


class RecordStep(_AttemptCommand):
    type: Literal["RecordStep"] = "RecordStep"
    records: tuple[StepRecord, ...]
    messages: tuple[NewMessage, ...] = ()
    state: Any = None  # the shared state as these steps left it; None: they did not change it


class AppendEvents(_AttemptCommand):
    """Events alone, when a tail grows too long to wait for the next step."""

    type: Literal["AppendEvents"] = "AppendEvents"


class RequestTools(_AttemptCommand):
    """Pause the run: pending calls, closings and the interrupt are committed together."""

    type: Literal["RequestTools"] = "RequestTools"
    calls: tuple[PendingToolCall, ...]
    records: tuple[StepRecord, ...] = ()
    messages: tuple[NewMessage, ...] = ()
    state: Any = None


class FinishRun(_AttemptCommand):
    """End the run; `events` close what is open, the actor adds the terminal event."""

    type: Literal["FinishRun"] = "FinishRun"
    status: Literal[RunStatus.SUCCEEDED, RunStatus.FAILED]
    records: tuple[StepRecord, ...] = ()
    messages: tuple[NewMessage, ...] = ()
    error_code: str | None = None
    error_message: str | None = None


class ReleaseRun(_AttemptCommand):
    """Give the run back at a step boundary, so that the next attempt starts at once."""

    type: Literal["ReleaseRun"] = "ReleaseRun"
    records: tuple[StepRecord, ...] = ()
    messages: tuple[NewMessage, ...] = ()


# -- from the sweeper -------------------------------------------------------------------------------------------------


class ReapAttempt(_Command):
    """The process of this attempt is silent: dispatch the run again."""

    type: Literal["ReapAttempt"] = "ReapAttempt"
    run_id: UUID
    attempt_id: UUID


class EnforceDeadline(_Command):
    """A deadline of this run has passed: its own, or that of its cancellation."""

    type: Literal["EnforceDeadline"] = "EnforceDeadline"
    run_id: UUID


class FailRun(_Command):
    """A command of this session cannot be processed: end its active run, so that the session goes on."""

    type: Literal["FailRun"] = "FailRun"
    error_code: str
    error_message: str


class ExpireToolCalls(_Command):
    type: Literal["ExpireToolCalls"] = "ExpireToolCalls"


class PruneSession(_Command):
    """Something of this session's ended runs is past its retention: what ended before each time goes."""

    type: Literal["PruneSession"] = "PruneSession"
    events_before: datetime | None = None
    journals_before: datetime | None = None
    runs_before: datetime | None = None


class ClaimCheck(_Command):
    """In place of a command that is too large for a message: it waits in `command_claims` under this id."""

    type: Literal["ClaimCheck"] = "ClaimCheck"
    claim_id: UUID
    not_after: datetime


ClientCommand = AcceptRun | AcceptResume | CancelRun | DeleteSession
AttemptCommand = BeginStep | RecordStep | AppendEvents | RequestTools | FinishRun | ReleaseRun
SweeperCommand = ReapAttempt | EnforceDeadline | FailRun | ExpireToolCalls | PruneSession
Command = ClientCommand | StartRun | AttemptCommand | SweeperCommand | ClaimCheck

_COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def encode_command(command: Command, most: int = MAX_COMMAND_BYTES) -> bytes:
    """The command's wire form; raises TooLarge above `most` bytes."""
    body = _COMMANDS.dump_json(command)
    if len(body) > most:
        raise TooLarge(f"{command.type} has {len(body)} bytes; a command may have {most}")
    return body


_NUL = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")


def has_nul(json: bytes) -> bool:
    """Whether a string in this JSON holds the character U+0000; one that talks about `\\u0000` does not."""
    return b"\\u0000" in json and _NUL.search(json) is not None


def decode_command(body: bytes, most: int = MAX_COMMAND_BYTES) -> Command:
    """Read a command; raises TooLarge or InvalidInput naming the field."""
    if len(body) > most:
        raise TooLarge(f"command has {len(body)} bytes; it may have {most}")
    if has_nul(body):
        raise InvalidInput("command contains a NUL character; PostgreSQL cannot keep it: remove it")
    try:
        return _COMMANDS.validate_json(body)
    except ValidationError as error:
        raise InvalidInput(f"command: {first_error(error)}") from error


def first_error(error: ValidationError) -> str:
    """The first complaint of a pydantic error as `field: what is wrong`; never shows the value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    return f"{'.'.join(str(part) for part in first['loc']) or 'body'}: {first['msg']}"


# -- replies ----------------------------------------------------------------------------------------------------------


class RunAnswer(Frozen):
    """Where a run stands; the reply to AcceptRun, AcceptResume and CancelRun."""

    type: Literal["run"] = "run"
    run_id: str  # the client's
    thread_id: str
    task_id: str
    status: RunStatus
    leg: int = 1


class StartAnswer(Frozen):
    """The attempt holds `epoch`; `opening` is already committed and is the first thing to publish.

    `begun`: the steps that the command named are granted, too.
    """

    type: Literal["start"] = "start"
    epoch: int
    attempt: int  # 1, 2, 3… inside the run
    leg: int
    opening: EventBatch
    deadline: datetime | None = None
    begun: bool = False


class StepAnswer(Frozen):
    """The command took effect and its ordinal is used up; events up to `committed_seq` of this epoch are in the log.

    `cancelling`: the run is being cancelled; records and events were kept, but no step was granted.
    """

    type: Literal["step"] = "step"
    committed_seq: int
    cancelling: bool = False


class DoneAnswer(Frozen):
    """The command took effect and there is nothing to say."""

    type: Literal["done"] = "done"


Answer = RunAnswer | StartAnswer | StepAnswer | DoneAnswer


class ReplyError(Frozen):
    code: str
    message: str
    retry_after: int | None = None  # seconds
    details: Mapping[str, Any] = Field(default_factory=dict)


class Reply(Frozen):
    """Exactly one of `answer` and `error`."""

    answer: Annotated[Answer, Field(discriminator="type")] | None = None
    error: ReplyError | None = None

    def unwrap(self) -> Answer:
        """The answer; raises the error that the actor replied with."""
        if self.error is not None:
            raise from_code(self.error.code, self.error.message, self.error.retry_after)
        return self.answer or DoneAnswer()


def refusal(error: CallboardError) -> Reply:
    """The reply that carries `error` to the caller."""
    return Reply(error=ReplyError(code=error.code, message=error.message, retry_after=error.retry_after))


def encode_reply(reply: Reply) -> bytes:
    return reply.model_dump_json(exclude_none=True).encode()


def decode_reply(body: bytes) -> Reply:
    return Reply.model_validate_json(body)
