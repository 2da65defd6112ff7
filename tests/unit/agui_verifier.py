"""What an AG-UI client enforces on a stream, as a fold: `verify(events)` raises Violation where a client would stop."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ag_ui.core import Event
from pydantic import TypeAdapter, ValidationError

_EVENTS: TypeAdapter[Any] = TypeAdapter(Event)
_TERMINAL = ("RUN_FINISHED", "RUN_ERROR")
_NAMESPACES = {
    "TEXT_MESSAGE": ("text", "messageId"),
    "TOOL_CALL": ("tool", "toolCallId"),
    "REASONING_MESSAGE": ("reasoning message", "messageId"),
    "REASONING": ("reasoning", "messageId"),
}
_PIECES = {"START": "open", "CONTENT": "use", "ARGS": "use", "END": "close"}


class Violation(AssertionError):
    pass


class Verifier:
    """Feed it one event after the other; several runs may follow each other."""

    def __init__(self) -> None:
        self._open: set[tuple[str, str]] = set()
        self._last: str | None = None

    @property
    def open_parts(self) -> set[tuple[str, str]]:
        return set(self._open)

    @property
    def ended(self) -> bool:
        return self._last in _TERMINAL

    def see(self, event: dict[str, Any]) -> None:
        _check_form(event)
        kind = event["type"]
        self._check_order(kind)
        if kind in ("RUN_STARTED", "RUN_ERROR"):
            self._open.clear()
        elif kind == "RUN_FINISHED" and self._open:
            raise Violation(f"RUN_FINISHED while open: {sorted(self._open)}")
        elif kind.startswith("STEP_"):
            self._move(f"step of {event.get('subagentRunId')}", event["stepName"], kind == "STEP_STARTED")
        else:
            self._check_part(kind, event)
        self._last = kind

    def _check_order(self, kind: str) -> None:
        if self._last is None and kind not in ("RUN_STARTED", "RUN_ERROR"):
            raise Violation(f"the first event is {kind}")
        if self._last == "RUN_FINISHED" and kind not in ("RUN_STARTED", "RUN_ERROR"):
            raise Violation(f"{kind} after RUN_FINISHED")
        if self._last == "RUN_ERROR" and kind != "RUN_STARTED":
            raise Violation(f"{kind} after RUN_ERROR")
        if kind == "RUN_STARTED" and self._last not in (None, *_TERMINAL):
            raise Violation("RUN_STARTED inside a run")

    def _check_part(self, kind: str, event: dict[str, Any]) -> None:
        prefix, _, piece = kind.rpartition("_")
        if prefix not in _NAMESPACES or piece not in _PIECES:
            return
        space, key = _NAMESPACES[prefix]
        if _PIECES[piece] == "use":
            if (space, event[key]) not in self._open:
                raise Violation(f"{kind} of {event[key]}, which is not open")
        else:
            self._move(space, event[key], _PIECES[piece] == "open")

    def _move(self, space: str, name: str, opens: bool) -> None:
        part = (space, name)
        if opens == (part in self._open):
            raise Violation(f"{space} {name} is {'already' if opens else 'not'} open")
        (self._open.add if opens else self._open.discard)(part)


def _check_form(event: dict[str, Any]) -> None:
    """Valid for the protocol's own model, without nulls and floats where a client dies of them."""
    if (bad := [name for name in event if event[name] is None]) and event["type"] != "CUSTOM":
        raise Violation(f"{event['type']}: null in {bad}")
    if "timestamp" in event and not isinstance(event["timestamp"], int):
        raise Violation(f"{event['type']}: timestamp is not an integer")
    try:
        parsed = _EVENTS.validate_python(event)
    except ValidationError as error:
        raise Violation(f"{event}: {error}") from error
    if extra := set(parsed.model_extra or {}):
        raise Violation(f"{event['type']}: the protocol has no {sorted(extra)}")


def verify(events: Iterable[dict[str, Any]]) -> Verifier:
    """Check a whole sequence; the verifier says what is still open."""
    verifier = Verifier()
    for event in events:
        verifier.see(event)
    return verifier
