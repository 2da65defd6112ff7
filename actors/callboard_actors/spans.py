"""The spans of commands: from their arrival to their reply, with the commit that they shared inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from callboard_actors.commit import Versioned
from callboard_runtime.domain.commands import Command, Reply
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import NO_SPAN, Span


def arrived(headers: Mapping[str, object]) -> Span:
    """A command came in; it is traced if its sender traced it."""
    parent = tracing.header_of(headers)
    if parent is None:
        return NO_SPAN
    return tracing.span("process command", kind="consumer", parent=parent, attributes={"messaging.system": "rabbitmq"})


def committed(group: Sequence[Versioned], began: int, ended: int) -> None:
    """Show the commit inside of every traced command of the group; times in nanoseconds since the epoch."""
    for versioned in group:
        if versioned.trace is not NO_SPAN:
            versioned.trace.child("commit", began, ended, {"callboard.commit.commands": len(group)})


def settled(span: Span, command: Command | None, outcome: Reply | BaseException) -> None:
    """The command was answered and acknowledged, or set aside."""
    if command is not None:
        span.rename(f"process {command.type}")
        span.note({"callboard.session_id": str(command.session_id)})
    if isinstance(outcome, Reply) and outcome.error is not None:
        span.note({"callboard.refused": outcome.error.code})
    elif isinstance(outcome, BaseException):
        span.fail(type(outcome).__name__)
    span.end()
