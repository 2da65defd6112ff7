"""A run as a Python caller asks for it, and the command that it becomes: the same that a front would send."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Self
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
        """The command that starts this run, worth accepting for `timeout` seconds; raises InvalidInput."""
        check_schemas(self.tools)
        return AcceptRun(
            session_id=session_uuid(self.user_id, self.thread_id),
            user_id=self.user_id,
            thread_id=self.thread_id,
            run_id=self.run_id,
            agent_id=self.agent_id,
            digest=digest({"agentId": self.agent_id, "input": self._canonical()}),
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
        users = (message for message in self._shown() if message.get("role", "user") == "user")
        return RunInput(
            messages=tuple(_new_message(self.run_id, number, message) for number, message in enumerate(users)),
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
        """The command that answers, worth accepting for `timeout` seconds."""
        leg_run_id = self.leg_run_id or self.run_id
        answers = [answer.model_dump(mode="json") for answer in self.answers]
        return AcceptResume(
            session_id=session_uuid(self.user_id, self.thread_id),
            user_id=self.user_id,
            roles=self.roles,
            run_id=self.run_id,
            leg_run_id=leg_run_id,
            digest=digest({"threadId": self.thread_id, "runId": leg_run_id, "answers": answers}),
            answers=self.answers,
            not_after=_in(timeout),
        )


def _new_message(run_id: str, number: int, message: Mapping[str, Any]) -> NewMessage:
    message_id = message.get("id") or message.get("message_id") or f"{run_id}:user:{number}"
    return NewMessage(message_id=message_id, role="user", content=message.get("content"), name=message.get("name"))


def _in(seconds: float) -> datetime:
    return utcnow() + timedelta(seconds=seconds)
