"""Traces, for the hops: while nobody traces, `current` is None, a span is `NO_SPAN`, and OpenTelemetry is not imported.

A trace begins where a request comes in (`root=True`) and goes on wherever a `traceparent` (W3C) came along. What is not
sampled leaves no header behind, so that no later hop looks at it again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol, Self

Attributes = Mapping[str, str | int | float | bool]
Kind = Literal["internal", "server", "client", "producer", "consumer"]

HEADER = "traceparent"


class Span:
    """A piece of work in a trace; this one records nothing. It runs from its creation to `end`, or the `with` block.

    Inside the block it is the parent of what begins there.
    """

    __slots__ = ()

    @property
    def traceparent(self) -> str | None:
        """What a child elsewhere must be given; None when nothing is recorded."""
        return None

    def note(self, attributes: Attributes) -> None:
        """Add attributes: never what users or models said, never a secret."""

    def rename(self, name: str) -> None:
        """Give it a name that was not known at its start."""

    def link(self, traceparent: str | None) -> None:
        """Point at a span of another trace."""

    def fail(self, code: str) -> None:
        """Mark it as failed."""

    def child(self, name: str, began: int, ended: int, attributes: Attributes) -> None:
        """Add a finished child; times in nanoseconds since the epoch."""

    def end(self) -> None:
        """End it without a block."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        return None


NO_SPAN = Span()


class Tracer(Protocol):
    """What `start` installs."""

    def span(
        self,
        name: str,
        kind: Kind,
        parent: str | None,
        links: Sequence[str],
        attributes: Attributes | None,
        root: bool,
    ) -> Span: ...
    def continued(self, traceparent: str) -> AbstractContextManager[object]: ...
    def note(self, attributes: Attributes) -> None: ...
    def traceparent(self) -> str | None: ...
    def trace_id(self) -> str | None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


current: Tracer | None = None
"""This process's tracer; None: off."""


def use(tracer: Tracer | None) -> Tracer | None:
    """Trace with this from now on; returns the one before."""
    global current
    before, current = current, tracer
    return before


def span(
    name: str,
    *,
    kind: Kind = "internal",
    parent: str | None = None,
    links: Sequence[str] = (),
    attributes: Attributes | None = None,
    root: bool = False,
) -> Span:
    """Begin a span below `parent`, else below the present one; without either only a `root` begins a trace."""
    if current is None:
        return NO_SPAN
    return current.span(name, kind, parent, links, attributes, root)


def continued(traceparent: str | None) -> AbstractContextManager[object]:
    """What begins inside belongs to this trace, which another process began."""
    if current is None or traceparent is None:
        return NO_SPAN
    return current.continued(traceparent)


def traceparent() -> str | None:
    """The present span, for a message to another process; None when it is not recorded."""
    return None if current is None else current.traceparent()


def trace_id() -> str | None:
    """The present trace's id in hexadecimal, for log records."""
    return None if current is None else current.trace_id()


def header_of(headers: Mapping[str, object] | None) -> str | None:
    """The `traceparent` among the headers of an AMQP message; None while nobody traces."""
    if current is None or not headers:
        return None
    value = headers.get(HEADER)
    return value.decode("ascii", "replace") if isinstance(value, bytes) else value if isinstance(value, str) else None
