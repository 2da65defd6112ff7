"""The bodies of responses, as documented: tests compare what the front sends with these models, member by member."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from callboard_runtime.domain.state_snapshot import RunStatus

Json = dict[str, Any]

_EVENT_ID = r"^[0-9]+-[0-9]+$"


class Body(BaseModel):
    """Exactly these members, all of them present."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Failure(Body):
    code: str = Field(description="Stable, for programs")
    message: str | None


class RunUsage(Body):
    calls: int = Field(description="Provider requests")
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: str | None = Field(description="Decimal text in US dollars: the sum of the known prices")
    unpriced_calls: int = Field(description="Provider requests whose price is unknown; their cost is not in `cost`")


class SessionUsage(Body):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    cost: str | None = Field(description="Decimal text in US dollars: the sum of the known prices")
    unpriced_calls: int


class Leg(Body):
    """From a run's start to its pause, or from a resume to the next pause or the end."""

    leg: int
    run_id: str = Field(description="The runId that the client used for this leg")
    last_event_id: str | None = Field(pattern=_EVENT_ID, description="Of the leg's closing event")
    created_at: datetime
    ended_at: datetime | None


class Run(Body):
    run_id: str
    session_id: str
    agent_id: str
    status: RunStatus
    error: Failure | None
    legs: list[Leg]
    usage: RunUsage
    events_url: str
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None


class Ticket(Body):
    ticket: str = Field(description="Opens the stream of this run in place of a token, until the token expires")
    expires_at: datetime
    events_url: str = Field(description="The stream's path with the ticket in it, for EventSource")


class Session(Body):
    session_id: str
    title: str | None
    status: str
    message_count: int
    last_message_at: datetime | None
    last_event_id: str | None = Field(pattern=_EVENT_ID)
    usage: SessionUsage
    created_at: datetime
    updated_at: datetime


class SessionPage(Body):
    sessions: list[Session]
    next: str | None = Field(description="The `after` of the next page; null at the end")


class SessionMessage(Body):
    seq: int = Field(description="1, 2, 3… inside the session")
    id: str
    role: str
    content: Any
    tool_calls: list[Json] | None
    tool_call_id: str | None
    name: str | None
    withdrawn: bool = Field(description="Taken back by a rollback; kept for the record")
    created_at: datetime
    run_id: str | None


class MessagePage(Body):
    messages: list[SessionMessage]
    next: str | None = Field(description="The `after` of the next page; null at the end")


class AguiEvent(BaseModel):
    """An event of AG-UI 1.0; the members beside `type` depend on it."""

    model_config = ConfigDict(frozen=True, extra="allow")

    type: str = Field(pattern="^[A-Z_]+$", examples=["RUN_STARTED", "TEXT_MESSAGE_CONTENT", "RUN_FINISHED"])


class LoggedEvent(Body):
    id: str = Field(pattern=_EVENT_ID, description="`<epoch>-<seq>`: the event's place, and the cursor behind it")
    event: AguiEvent


class EventPage(Body):
    events: list[LoggedEvent]
    next: str | None = Field(pattern=_EVENT_ID, description="The `after` of the next page; null at the end of the log")


class ProviderCall(Body):
    """One request to a model provider."""

    key: str = Field(description="The step that it belongs to")
    epoch: int
    stage: str
    provider: str
    model: str
    status: Literal["begun", "recorded", "failed", "cancelled", "lost"]
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    reasoning_tokens: int
    cost: str | None = Field(description="Decimal text in US dollars; null if the price is unknown")
    estimated: bool = Field(description="Tokens were counted here, not by the provider")
    first_token_ms: int | None
    latency_ms: int | None
    begun_at: datetime
    run_id: str


class UsagePage(Body):
    totals: SessionUsage
    calls: list[ProviderCall]
    next: str | None = Field(description="The `after` of the next page; null at the end")


class Alive(Body):
    status: Literal["ok"]


class Checks(Body):
    database: bool
    schema_: bool = Field(alias="schema", description="Whether the database has all tables and columns of this release")
    broker: bool
    redis: bool = Field(description="Without Redis events come later; nothing is lost")
    actors: bool = Field(description="Whether an actor process lives; while none does, runs meet 503")
    draining: bool


class Ready(Body):
    status: Literal["ready", "unready"]
    checks: Checks


class Agents(BaseModel):
    """The agents and the optional operations, as CopilotKit's front ends read them."""

    model_config = ConfigDict(frozen=True, extra="allow")

    version: str
    mode: Literal["sse"]
    agents: dict[str, Json]


class UnknownAgent(Body):
    error: Literal["Agent not found"]


class Stopped(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    stopped: bool
    message: str = Field(default="", description="Why nothing was stopped")
    interrupt: Json | None = Field(default=None, description="The RUN_ERROR that readers get")


class Thread(BaseModel):
    """A session in CopilotKit's words."""

    model_config = ConfigDict(frozen=True, extra="allow")

    id: str
    name: str | None
    created_at: datetime = Field(alias="createdAt")
    updated_at: datetime = Field(alias="updatedAt")


class ThreadPage(Body):
    threads: list[Thread]
    next_cursor: str | None = Field(alias="nextCursor")


class ThreadMessages(Body):
    messages: list[Json]


class Offer(Body):
    agents: list[Json]
    examples: list[str]


class AnyObject(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow")
