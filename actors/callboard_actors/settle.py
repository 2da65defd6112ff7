"""The one place that decides what becomes of a message: by the type of what came of it, and of nothing else.

came of it                    message             caller
an answer                     acknowledged        gets it
Refused                       acknowledged        gets the error
cannot be read                dead letter         gets the error
Unavailable                   held, tried again   waits
FencedOut                     left to the broker  the new owner answers
any other exception (a bug)   dead letter         gets INTERNAL; the session's active run ends ACTOR_FAILED
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from callboard_actors import metrics, spans
from callboard_runtime.domain.commands import Command, Reply, encode_reply, refusal
from callboard_runtime.errors import CallboardError, FencedOut, Refused, Unavailable
from callboard_runtime.observe.tracing import NO_SPAN, Span

logger = logging.getLogger(__name__)


class Delivery(Protocol):
    """A message on loan from the broker; each of these may be called once, never waits, and on a closed channel does
    nothing.
    """

    def ack(self) -> None: ...
    def reject(self) -> None: ...


class Replier(Protocol):
    """Answers callers, without waiting; one that hears nothing sends its command again."""

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """A command as it arrived."""

    body: bytes
    reply_to: str | None
    correlation_id: str | None
    delivery: Delivery
    trace: Span = field(default=NO_SPAN, compare=False)  # begun at its arrival, ended when it is settled


@dataclass(frozen=True, slots=True)
class Unreadable(Exception):
    """The message is no command; `error` says why."""

    error: CallboardError


class Fate(Enum):
    ACKNOWLEDGE = "acknowledge"
    DEAD_LETTER = "dead_letter"
    HOLD = "hold"
    LEAVE = "leave"


def fate_of(outcome: Reply | BaseException) -> Fate:
    if isinstance(outcome, Reply | Refused):
        return Fate.ACKNOWLEDGE
    if isinstance(outcome, Unavailable):
        return Fate.HOLD
    if isinstance(outcome, FencedOut):
        return Fate.LEAVE
    return Fate.DEAD_LETTER


def reply_of(outcome: Reply | BaseException) -> Reply:
    if isinstance(outcome, Reply):
        return outcome
    error = outcome.error if isinstance(outcome, Unreadable) else outcome
    return refusal(error if isinstance(error, Refused) else CallboardError("The command failed; it was set aside."))


def settle(envelope: Envelope, outcome: Reply | BaseException, replier: Replier, command: Command | None) -> None:
    """Answer the caller and give the message back; HOLD and LEAVE do neither."""
    fate = fate_of(outcome)
    if fate in (Fate.HOLD, Fate.LEAVE):
        return
    if envelope.reply_to and envelope.correlation_id:
        replier.reply(envelope.reply_to, envelope.correlation_id, encode_reply(reply_of(outcome)))
    _note(envelope, outcome, fate, command)
    if fate is Fate.ACKNOWLEDGE:
        envelope.delivery.ack()
        return
    _log_dead_letter(outcome, command)
    envelope.delivery.reject()


def _note(envelope: Envelope, outcome: Reply | BaseException, fate: Fate, command: Command | None) -> None:
    refused = isinstance(outcome, Refused) or (isinstance(outcome, Reply) and outcome.error is not None)
    kind = fate.value if fate is Fate.DEAD_LETTER else "refused" if refused else "answered"
    metrics.command_settled(command.type if command else "unreadable", kind)
    if envelope.trace is not NO_SPAN:
        spans.settled(envelope.trace, command, outcome)


def _log_dead_letter(outcome: Reply | BaseException, command: Command | None) -> None:
    known = {"command": command.type, "session": str(command.session_id)} if command else {}
    reason = outcome.error.message if isinstance(outcome, Unreadable) else repr(outcome)
    trace = outcome if isinstance(outcome, BaseException) and not isinstance(outcome, Unreadable) else None
    logger.error("dead letter: %s", reason, exc_info=trace, extra={"action": "command_dead_lettered", **known})
