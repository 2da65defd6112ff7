"""What a client asks for, canonical: the parsed input of a run, its digest, and the multitask strategy."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson
from pydantic import Field

from callboard_runtime.domain.state_snapshot import Frozen


class MultitaskStrategy(StrEnum):
    """What a new run does to a session that has an active one."""

    REJECT = "reject"
    ENQUEUE = "enqueue"
    INTERRUPT = "interrupt"  # cancel the active run, keep its text
    ROLLBACK = "rollback"  # the same, and withdraw its messages


class NewMessage(Frozen):
    """A message that is to become a row; the actor gives it its seq."""

    message_id: str
    role: str
    content: Any = None  # text, or AG-UI content parts
    tool_calls: tuple[dict[str, Any], ...] = ()
    tool_call_id: str | None = None
    name: str | None = None


class RunInput(Frozen):
    """The parts of a RunAgentInput that the run needs; kept in `runs.input`."""

    messages: tuple[NewMessage, ...] = ()  # the user messages that the session lacks, in order
    tools: tuple[dict[str, Any], ...] = ()
    context: tuple[dict[str, Any], ...] = ()
    state: Any = None
    forwarded_props: dict[str, Any] = Field(default_factory=dict)
    parent_run_id: str | None = None
    protocol_version: str | None = None


def digest(canonical: Mapping[str, Any]) -> str:
    """sha256 of a parsed input in canonical form; absent, null and empty members count as the same."""
    return hashlib.sha256(orjson.dumps(_without_empty(canonical), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _without_empty(value: Any) -> Any:
    if isinstance(value, Mapping):
        pruned = {str(key): _without_empty(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]
        return {key: item for key, item in pruned.items() if item not in (None, {}, [])}
    if isinstance(value, list | tuple):
        return [_without_empty(item) for item in value]  # pyright: ignore[reportUnknownVariableType]
    return value
