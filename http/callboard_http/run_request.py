"""A RunAgentInput as it arrives, checked and made canonical.

In:  a request body.
Out: a RunRequest: what the run needs, its digest, and the answers it brings. Unknown members are ignored; a known one
     that is wrong raises InvalidInput naming it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import orjson
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator
from pydantic.alias_generators import to_camel

from callboard_runtime.domain.commands import first_error, has_nul
from callboard_runtime.domain.ids import ClientId
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage, RunInput, digest
from callboard_runtime.domain.tool_schema import check_schemas
from callboard_runtime.errors import InvalidInput

MAX_DEPTH = 64  # levels of nesting
MAX_TOOLS = 256
MAX_CONTEXT = 256
MAX_ANSWERS = 256

Json = dict[str, Any]


class Wire(BaseModel):
    """A client's object: camelCase, unknown members ignored, null where a member may be absent."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel)


class Message(Wire):
    """One message of the shown history. Only user messages, and tool messages that answer, are ever acted upon."""

    id: str = Field(min_length=1, max_length=200)
    role: str = Field(max_length=40)
    content: str | list[Json] | Json | None = None
    name: str | None = Field(default=None, max_length=200)
    tool_calls: list[Json] | None = None
    tool_call_id: str | None = Field(default=None, max_length=200)
    error: str | None = None


class Tool(Wire):
    name: str = Field(min_length=1, max_length=200)
    description: str = ""
    parameters: Json | None = None
    metadata: Json | None = None


class Context(Wire):
    description: str
    value: str


class ResumeEntry(Wire):
    """An answer to one interrupt."""

    interrupt_id: str = Field(min_length=1, max_length=200)
    status: Literal["resolved", "cancelled"]
    payload: Any = None


class RunAgentInput(Wire):
    thread_id: ClientId
    run_id: ClientId
    messages: list[Message]
    protocol_version: str | None = Field(default=None, max_length=20)
    parent_run_id: ClientId | None = None
    state: Any = None
    tools: list[Tool] | None = Field(default=None, max_length=MAX_TOOLS)
    context: list[Context] | None = Field(default=None, max_length=MAX_CONTEXT)
    forwarded_props: Json | None = None
    resume: list[ResumeEntry] | None = Field(default=None, max_length=MAX_ANSWERS)

    @field_validator("forwarded_props", mode="before")
    @classmethod
    def _an_object(cls, value: Any) -> Any:
        """AG-UI allows any JSON here; what is not an object names no option of ours, and is kept under `value`."""
        return value if value is None or isinstance(value, dict) else {"value": value}  # pyright: ignore[reportUnknownVariableType]


class ThreadRequest(Wire):
    """What a RunAgentInput says of its thread, where nothing is to be run."""

    thread_id: ClientId
    protocol_version: str | None = Field(default=None, max_length=20)


class _Options(Wire):
    """What we read out of `forwardedProps`."""

    agent_id: ClientId | None = None
    multitask_strategy: MultitaskStrategy | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A parsed and bounded request; equal requests have equal digests."""

    thread_id: str
    run_id: str
    agent_id: str
    strategy: MultitaskStrategy | None
    protocol_version: str | None
    user_messages: tuple[NewMessage, ...]  # all that were shown, in order
    tool_answers: tuple[Message, ...]  # tool messages after the last user or assistant message
    resume: tuple[ResumeEntry, ...]
    digest: str
    input: RunInput  # without messages: which of them are new is for the database to say

    @property
    def answers(self) -> bool:
        """Whether this continues a paused run."""
        return bool(self.resume or self.tool_answers)

    def with_messages_beyond(self, known: set[str]) -> RunInput:
        """The run's input with the user messages that the session lacks."""
        return self.input.but(messages=tuple(m for m in self.user_messages if m.message_id not in known))


M = TypeVar("M", bound=BaseModel)


def parse_json(body: bytes) -> Any:
    """The body's JSON; raises InvalidInput, also for what PostgreSQL cannot keep and for excessive nesting."""
    if has_nul(body):
        raise InvalidInput("body: contains a NUL character (\\u0000), which cannot be kept: remove it")
    try:
        parsed = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidInput(f"body: not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    _check_depth(parsed)
    return parsed


def parse_as(model: type[M], value: Any) -> M:
    """`value` as a model; raises InvalidInput that names the first wrong field."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidInput(first_error(error)) from None


def parse_run_request(body: bytes, *, max_messages: int, agent_id: str | None = None) -> RunRequest:
    """Read a RunAgentInput; `agent_id` is the URL's, which wins over `forwardedProps.agentId`."""
    given = parse_as(RunAgentInput, parse_json(body))
    if len(given.messages) > max_messages:
        raise InvalidInput(f"messages: has {len(given.messages)} items; at most {max_messages} are taken")
    options = _options(given.forwarded_props or {})
    agent = agent_id or options.agent_id or "default"
    check_id("agentId", agent)
    return RunRequest(
        thread_id=given.thread_id,
        run_id=given.run_id,
        agent_id=agent,
        strategy=options.multitask_strategy,
        protocol_version=given.protocol_version,
        user_messages=tuple(_user_message(i, m) for i, m in enumerate(given.messages) if m.role == "user"),
        tool_answers=_tool_answers(given.messages),
        resume=tuple(given.resume or ()),
        digest=digest({"agentId": agent, "input": given.model_dump(mode="json", by_alias=True, exclude_none=True)}),
        input=_run_input(given),
    )


_CLIENT_IDS: TypeAdapter[str] = TypeAdapter(ClientId)


def check_id(field: str, value: str) -> str:
    """`value` if it is a client id; raises InvalidInput naming `field`."""
    try:
        return _CLIENT_IDS.validate_python(value)
    except ValidationError:
        allowed = "A-Z a-z 0-9 . _ : ~ @ / + = -"
        raise InvalidInput(f"{field}: must have 1 to 200 characters of {allowed}, not dots alone") from None


def _options(props: Json) -> _Options:
    try:
        return _Options.model_validate(props)
    except ValidationError as error:
        raise InvalidInput(f"forwardedProps.{first_error(error)}") from None


def _run_input(given: RunAgentInput) -> RunInput:
    tools = tuple(tool.model_dump(by_alias=True, exclude_none=True) for tool in given.tools or ())
    check_schemas(tools)
    return RunInput(
        tools=tools,
        context=tuple(item.model_dump(by_alias=True) for item in given.context or ()),
        state=given.state,
        forwarded_props=given.forwarded_props or {},
        parent_run_id=given.parent_run_id,
        protocol_version=given.protocol_version,
    )


def _user_message(index: int, message: Message) -> NewMessage:
    field = f"messages.{index}"
    check_id(f"{field}.id", message.id)
    content = message.content
    if not isinstance(content, str | list):
        raise InvalidInput(f"{field}.content: a user message needs text or a list of content parts")
    if isinstance(content, list) and not all(isinstance(part.get("type"), str) for part in content):
        raise InvalidInput(f"{field}.content: every content part needs a `type`")
    return NewMessage(message_id=message.id, role="user", content=content, name=message.name)


def _tool_answers(messages: Sequence[Message]) -> tuple[Message, ...]:
    """The tool messages that answer: older ones are history, which a client cannot change."""
    last = max((i for i, message in enumerate(messages) if message.role in ("user", "assistant")), default=-1)
    found = tuple(message for message in messages[last + 1 :] if message.role == "tool")
    for message in found:
        if message.tool_call_id is None:
            raise InvalidInput(f"messages: the tool message {message.id[:40]!r} has no toolCallId")
    return found


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for parent in level for item in _children(parent)]
        if not level:
            return
    raise InvalidInput(f"body: nested more than {MAX_DEPTH} levels deep")


def _children(value: Any) -> Sequence[Any]:
    if isinstance(value, dict):
        return list(value.values())  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
    return value if isinstance(value, list) else ()  # pyright: ignore[reportUnknownVariableType]
