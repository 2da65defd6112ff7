"""What an integration's message asks for, and what it is answered.

In:  a delivery from queue callboard.ingress.v1: routing key, headers, body.
Out: an attempt that may be repeated until a service is back; then the message of the reply.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import orjson
from pydantic import Field

from callboard_http.auth import Authenticator, Principal
from callboard_http.limits import Limits
from callboard_http.problems import CONTENT_TYPE as PROBLEM
from callboard_http.problems import document
from callboard_http.request_context import check_user
from callboard_http.run_commands import Cancel, Resume, RunCommands, accepted
from callboard_http.run_request import MAX_ANSWERS, ResumeEntry, Wire, check_id, parse_as, parse_json, parse_run_request
from callboard_runtime.broker import topology
from callboard_runtime.domain.commands import RunAnswer, ToolAnswer
from callboard_runtime.errors import CallboardError, InvalidInput, TooLarge, Unauthenticated
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

MAX_TOKEN = 16_384  # bytes of the header `authorization`

Attempt = Callable[[], Awaitable[RunAnswer]]


class ResumeMessage(Wire):
    """Answers to what run `run_id` waits for; it goes on as `next_run_id`, or under its own id."""

    run_id: str = Field(alias="run_id")
    next_run_id: str | None = Field(default=None, alias="next_run_id")
    user: str | None = Field(default=None, description="Whose run it is, if an approver answers")
    answers: tuple[ToolAnswer, ...] = Field(default=(), max_length=MAX_ANSWERS)
    resume: tuple[ResumeEntry, ...] = Field(default=(), max_length=MAX_ANSWERS)


class CancelMessage(Wire):
    run_id: str = Field(alias="run_id")
    reason: str | None = Field(default=None, max_length=500)


@dataclass(frozen=True, slots=True)
class Request:
    """A delivery, without what only the broker needs."""

    key: str
    headers: Mapping[str, Any]
    body: bytes

    def header(self, name: str) -> str | None:
        """The header as text; raises InvalidInput if it is anything else."""
        value = self.headers.get(name)
        if isinstance(value, bytes | bytearray):
            value = bytes(value).decode("utf-8", "replace")
        if value is not None and not isinstance(value, str):
            raise InvalidInput(f"header {name}: must be text")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """The reply's content; `unreadable`: no copy of the message can ever be answered otherwise."""

    status: int
    body: bytes
    type: str = "problem"
    content_type: str = PROBLEM
    unreadable: str | None = None  # why


class IngressRequests:
    """Reads messages with the parsers, limits and permissions of the HTTP surface."""

    def __init__(self, authenticator: Authenticator, commands: RunCommands, limits: Limits, settings: Settings) -> None:
        self._authenticator, self._commands = authenticator, commands
        self._limits, self._settings = limits, settings.http
        # Development auth trusts this machine only: here that is the broker's.
        self._host = urlsplit(settings.required_amqp_url()).hostname or ""

    async def attempt(self, request: Request) -> Attempt:
        """What the message asks for, to be carried out; counts a run towards its user's limit.

        Raises Unauthenticated, InvalidInput, TooLarge, LimitExceeded.
        """
        principal = self._principal(request)
        if len(request.body) > self._settings.max_body_bytes:
            raise TooLarge(f"the body may have {self._settings.max_body_bytes} bytes")
        match request.key:
            case "run":
                return await self._run(principal, request)
            case "resume":
                return self._resume(principal, request)
            case "cancel":
                return self._cancel(principal, request)
            case other:
                known = ", ".join(topology.INGRESS_KEYS)
                raise InvalidInput(f"routing key {other[:40]!r}: must be one of {known}")

    async def _run(self, principal: Principal, request: Request) -> Attempt:
        most, agent_id = self._settings.max_messages, request.header("agent-id")
        asked = parse_run_request(request.body, max_messages=most, agent_id=agent_id)
        await self._limits.count_run(principal.user_id)
        return lambda: self._commands.start(principal, asked)

    def _resume(self, principal: Principal, request: Request) -> Attempt:
        message = parse_as(ResumeMessage, parse_json(request.body))
        run_id = check_id("run_id", message.run_id)
        owner = check_user(principal.user_id if message.user is None else message.user)
        given = Resume(run_id=message.next_run_id, answers=message.answers, resume=message.resume)
        return lambda: self._commands.resume(principal, owner, run_id, given)

    def _cancel(self, principal: Principal, request: Request) -> Attempt:
        message = parse_as(CancelMessage, parse_json(request.body))
        run_id = check_id("run_id", message.run_id)
        return lambda: self._commands.cancel(principal, principal.user_id, run_id, Cancel(reason=message.reason))

    def _principal(self, request: Request) -> Principal:
        token = request.header("authorization")
        if token is None:
            headers = {"Host": self._host}
        elif len(token) > MAX_TOKEN:
            raise Unauthenticated(f"header authorization: may have {MAX_TOKEN} bytes")
        else:
            headers = {"Host": self._host, "Authorization": token}
        try:
            return self._authenticator.authenticate(headers)
        except Unauthenticated as error:
            logger.warning("a message was not accepted: %s", error, extra={"action": "ingress_unauthenticated"})
            raise


def granted(answer: RunAnswer) -> Answer:
    """The reply to a request that took effect; the same as the body of HTTP's 202."""
    return Answer(202, orjson.dumps(accepted(answer)), "accepted", "application/json")


def refused(request: Request, error: CallboardError) -> Answer:
    """The reply to one that did not."""
    wait = {"retry_after": error.retry_after} if error.retry_after else {}
    body = document(error.status, error.code, error.message, _instance(request), **wait)
    unreadable = f"{error.code}: {error.message}" if isinstance(error, InvalidInput) else None
    return Answer(error.status, orjson.dumps(body), unreadable=unreadable)


def failed(request: Request, error: Exception) -> Answer:
    """The reply to one that ran into a bug of ours, whose inside is not shown."""
    request_id = uuid.uuid4().hex
    logger.error(
        "message %s failed: %s", request_id, type(error).__name__, exc_info=error, extra={"action": "request_failed"}
    )
    detail = "Something went wrong here; the request id finds it in our log."
    body = document(500, "INTERNAL", detail, _instance(request), request_id=request_id)
    return Answer(500, orjson.dumps(body), unreadable=f"INTERNAL: request {request_id}")


def _instance(request: Request) -> str:
    return f"{topology.INGRESS_EXCHANGE}/{request.key[:40]}"
