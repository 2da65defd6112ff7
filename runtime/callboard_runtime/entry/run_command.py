"""A run as a Python caller asks for it, and the command that it becomes: the same that a front would send."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Self, cast
from uuid import uuid4

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from callboard_runtime.domain.commands import AcceptResume, AcceptRun, ToolAnswer, first_error
from callboard_runtime.domain.ids import ClientId, UserId, session_uuid, utcnow
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage, RunInput, digest
from callboard_runtime.domain.tool_schema import check_schemas
from callboard_runtime.errors import InvalidInput

SYSTEM_USER = "system"  # who owns runs that no user asked for


def _named(name: str, *others: str) -> AliasChoices:
    camel = name.split("_")[0] + "".join(part.title() for part in name.split("_")[1:])
    return AliasChoices(name, camel, *others)


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")

    user_id: UserId = Field(default=SYSTEM_USER, validation_alias=_named("user_id"))
    thread_id: ClientId = Field(validation_alias=_named("thread_id", "session_id", "sessionId"))

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise InvalidInput(f"{type(self).__name__}: {first_error(error)}") from None

    @classmethod
    def of(cls, given: Self | Mapping[str, Any]) -> Self:
        """`given` itself, or one made of its members. Raises InvalidInput naming the member."""
        return given if isinstance(given, cls) else cls(**dict(given))  # pyright: ignore[reportArgumentType, reportCallIssue]


class RunCommand(_Asked):
    """A message for a thread. Names are taken in snake_case and camelCase, unknown members are ignored.

    The same `run_id` is the same run, whoever sends it and however often. Raises InvalidInput naming the member.
    """

    run_id: ClientId = Field(default_factory=lambda: uuid4().hex, validation_alias=_named("run_id"))
    agent_id: ClientId = Field(default="default", validation_alias=_named("agent_id"))
    message: str | None = None
    messages: tuple[dict[str, Any], ...] = ()  # AG-UI user messages, instead of `message` or before it
    tools: tuple[dict[str, Any], ...] = ()
    context: tuple[dict[str, Any], ...] = ()
    state: Any = None
    forwarded_props: dict[str, Any] = Field(default_factory=dict, validation_alias=_named("forwarded_props"))
    strategy: MultitaskStrategy | None = Field(
        default=None, validation_alias=_named("strategy", "multitask_strategy", "multitaskStrategy")
    )

    def accept(self, timeout: float) -> AcceptRun:
        """The command that starts this run, worth accepting for `timeout` seconds.

        Raises InvalidInput naming the member; it never shows what the member contains.
        """
        canonical = self._canonical()
        made = _digest(lambda: {"agentId": self.agent_id, "input": canonical}, canonical)
        check_schemas(self.tools)
        return AcceptRun(
            session_id=session_uuid(self.user_id, self.thread_id),
            user_id=self.user_id,
            thread_id=self.thread_id,
            run_id=self.run_id,
            agent_id=self.agent_id,
            digest=made,
            input=self._input(),
            strategy=self.strategy,
            not_after=_in(timeout),
        )

    def _shown(self) -> tuple[dict[str, Any], ...]:
        if self.message is None:
            return self.messages
        return (*self.messages, {"id": f"{self.run_id}:user", "role": "user", "content": self.message})

    def _canonical(self) -> dict[str, Any]:
        """The RunAgentInput that says the same: over HTTP it has the same digest."""
        return {
            "threadId": self.thread_id,
            "runId": self.run_id,
            "messages": list(self._shown()),
            "tools": list(self.tools),
            "context": list(self.context),
            "state": self.state,
            "forwardedProps": self.forwarded_props,
        }

    def _input(self) -> RunInput:
        users = [(place, said) for place, said in enumerate(self._shown()) if said.get("role", "user") == "user"]
        return RunInput(
            messages=tuple(
                _new_message(place, said, f"{self.run_id}:user:{n}") for n, (place, said) in enumerate(users)
            ),
            tools=self.tools,
            context=self.context,
            state=self.state,
            forwarded_props=self.forwarded_props,
        )


class ResumeCommand(_Asked):
    """Answers to the pending tool calls of a paused run. Raises InvalidInput naming the member."""

    run_id: ClientId = Field(validation_alias=_named("run_id"))
    leg_run_id: ClientId | None = Field(default=None, validation_alias=_named("leg_run_id"))  # None: the same run id
    answers: tuple[ToolAnswer, ...] = Field(min_length=1)
    roles: tuple[str, ...] = ()

    def accept(self, timeout: float) -> AcceptResume:
        """The command that answers, worth accepting for `timeout` seconds; raises InvalidInput naming the answer."""
        leg_run_id = self.leg_run_id or self.run_id
        asked = {"threadId": self.thread_id, "runId": leg_run_id}
        return AcceptResume(
            session_id=session_uuid(self.user_id, self.thread_id),
            user_id=self.user_id,
            roles=self.roles,
            run_id=self.run_id,
            leg_run_id=leg_run_id,
            digest=_digest(lambda: asked | {"answers": list(map(_plain, self.answers))}, {"answers": self.answers}),
            answers=self.answers,
            not_after=_in(timeout),
        )


def _new_message(place: int, message: Mapping[str, Any], default_id: str) -> NewMessage:
    for field in ("id", "message_id", "name"):
        if not isinstance(message.get(field), str | None):
            raise InvalidInput(f"messages.{place}.{field}: must be text")
    message_id = message.get("id") or message.get("message_id") or default_id
    return NewMessage(message_id=message_id, role="user", content=message.get("content"), name=message.get("name"))


# -- digests of what may be no JSON -----------------------------------------------------------------------------------

_NO_JSON = (TypeError, ValueError, RecursionError)
_NEEDS_JSON = "must be JSON: text, numbers of at most 64 bits, true, false, None, and lists and dicts of these"


def _digest(make: Callable[[], Mapping[str, Any]], members: Mapping[str, Any]) -> str:
    """The digest of what `make` returns; raises InvalidInput naming which of `members` is no JSON."""
    try:
        return digest(make())
    except _NO_JSON:
        raise InvalidInput(f"{_first_without_json(members)}: {_NEEDS_JSON}") from None


def _first_without_json(members: Mapping[str, Any]) -> str:
    for name, value in members.items():
        if _is_json(value):
            continue
        if not isinstance(value, list | tuple):
            return name
        parts = enumerate(cast(Sequence[Any], value))
        return next((f"{name}.{place}" for place, part in parts if not _is_json(part)), name)
    return "input"


def _is_json(value: Any) -> bool:
    try:
        digest({"value": _plain(value)})
    except _NO_JSON:
        return False
    return True


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, ToolAnswer) else value


def _in(seconds: float) -> datetime:
    return utcnow() + timedelta(seconds=seconds)
