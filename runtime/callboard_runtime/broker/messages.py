"""The bodies of messages that programs outside read: what is told of runs, and how requests are answered."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field

from callboard_runtime.domain.state_snapshot import RunStatus


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PendingCall(_Body):
    """A tool call that a run waits for."""

    tool_call_id: str = Field(alias="toolCallId")
    tool_name: str = Field(alias="toolName")


class RunFailure(_Body):
    code: str
    message: str | None = None


class RunEvent(_Body):
    """What happened to a run. A copy has the same `id`."""

    id: UUID
    type: Literal["run.started", "run.interrupted", "run.finished", "run.failed", "run.cancelled"]
    at: datetime
    session_id: str = Field(description="The session's threadId, unique per user")
    run_id: str | None = Field(description="The runId of the run's first leg, unique per user")
    user_id: str
    agent_id: str | None
    leg: int = Field(description="1, and one more for each resume")
    pending: tuple[PendingCall, ...] | None = Field(default=None, description="Of run.interrupted: what it waits for")
    error: RunFailure | None = Field(default=None, description="Of run.failed, and of a run that was ended: why")


class Accepted(_Body):
    """The request is durable; the header `status` is 202."""

    run_id: str
    session_id: str
    task_id: str
    status: RunStatus
    leg: int
    events_url: str = Field(description="Path of the run's event stream on any front")


class Problem(BaseModel):
    """Nothing was changed: problem details as of RFC 9457; the header `status` repeats the status."""

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Any] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    type: str
    title: str
    status: int
    detail: str
    instance: str
    code: str = Field(description="Stable, for programs")
    retry_after: int | None = Field(default=None, description="Seconds to wait before asking again")
    request_id: str | None = Field(default=None, description="Of status 500: what finds it in the log")
