"""The AG-UI shared state: a tool reads and changes a copy, and the change counts once its call is recorded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import jsonpatch  # pyright: ignore[reportMissingTypeStubs]
import orjson
from jsonpointer import JsonPointerException  # pyright: ignore[reportMissingTypeStubs]

from callboard_runtime.domain.commands import has_nul

Operation = dict[str, Any]


class StateError(ValueError):
    """The shared state cannot be changed like this."""


@dataclass(frozen=True, slots=True)
class StateChange:
    """What a call did to the state: `operations` (RFC 6902) lead from what clients have to `value`."""

    value: Any
    operations: tuple[Operation, ...] | None  # None: clients need the whole value


class StateView:
    """The state as one tool call sees it, with its own changes; other calls see them once this one is recorded."""

    def __init__(self, value: Any = None, max_bytes: int = 64 * 1024) -> None:
        self._value, self._max_bytes = value, max_bytes
        self.operations: tuple[Operation, ...] = ()

    @property
    def value(self) -> Any:
        """A copy: changing it changes nothing."""
        return deepcopy(self._value)

    def patch(self, operations: Iterable[Mapping[str, Any]]) -> None:
        """Apply RFC 6902 operations, all or none; an empty state counts as `{}`. Raises StateError."""
        given = _as_json([dict(operation) for operation in operations])
        self._value = bounded(applied(self._value, given), self._max_bytes)
        self.operations += tuple(given)

    def replace(self, value: Any) -> None:
        """Make `value`, an object or a list, the whole state; raises StateError."""
        if not isinstance(value, dict | list):
            raise StateError("the shared state must be a JSON object or list")
        new = _as_json(value)
        old: Any = {} if self._value is None else self._value
        self.patch(jsonpatch.make_patch(old, new).patch)  # pyright: ignore[reportUnknownMemberType]


class SharedState:
    """The state of one run as its recorded calls left it. Used on the worker's loop only."""

    def __init__(self, value: Any = None, max_bytes: int = 64 * 1024) -> None:
        """`value` is what clients were shown; None: nothing."""
        self._value, self._max_bytes = value, max_bytes

    def view(self) -> StateView:
        return StateView(self._value, self._max_bytes)

    def take(self, view: StateView) -> StateChange | None:
        """Let a call's changes count; None if it made none.

        Raises StateError when a call that was recorded meanwhile has left a state that they do not fit.
        """
        if not view.operations:
            return None
        before = self._value
        self._value = bounded(applied(before, view.operations), self._max_bytes)
        whole = before is None or any(operation["path"] == "" for operation in view.operations)
        long = len(orjson.dumps(view.operations)) > self._max_bytes  # a tool may change the same place many times
        return StateChange(self._value, None if whole or long else view.operations)


def applied(value: Any, operations: Iterable[Operation]) -> Any:
    """`value` after the operations, itself unchanged; raises StateError."""
    try:
        return jsonpatch.apply_patch({} if value is None else value, list(operations))  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
    except (jsonpatch.JsonPatchException, JsonPointerException, TypeError, KeyError) as error:
        raise StateError(f"the shared state cannot be patched: {error}") from None


def bounded(value: Any, max_bytes: int) -> Any:
    """`value` if it may be a state; raises StateError."""
    if not isinstance(value, dict | list):
        raise StateError("the shared state must be a JSON object or list")
    size = len(orjson.dumps(value))
    if size > max_bytes:
        raise StateError(f"the shared state would have {size} bytes; it may have {max_bytes}")
    return value  # pyright: ignore[reportUnknownVariableType]


def _as_json(value: Any) -> Any:
    """`value` as it will be read back; raises StateError for what JSON, or PostgreSQL, cannot keep."""
    try:
        text = orjson.dumps(value)
    except TypeError as error:
        raise StateError(f"the shared state must be JSON: {error}") from None
    if has_nul(text):
        raise StateError("the shared state must not contain NUL characters")
    return orjson.loads(text)
