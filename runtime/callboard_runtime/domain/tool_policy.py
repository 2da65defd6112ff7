"""Where a tool call runs: in the browser, on the backend, or there after a human approves; and tools' names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from callboard_runtime.errors import InvalidInput

FRONTEND_PREFIX = "ui."
FRONTEND_SOURCE = "request.tools"
DELEGATION = ("delegate_work_to_coworker", "ask_question_to_coworker")
"""How a manager calls its agents."""

_NOT_ON_THE_WIRE = re.compile(r"[^A-Za-z0-9_-]")
MAX_WIRE_NAME = 64


class ToolMode(StrEnum):
    FRONTEND_EXECUTE = "FRONTEND_EXECUTE"
    BACKEND_APPROVAL_INTERRUPT = "BACKEND_APPROVAL_INTERRUPT"
    BACKEND_DIRECT_EXECUTE = "BACKEND_DIRECT_EXECUTE"


@dataclass(frozen=True, slots=True)
class ToolDecision:
    """How one call is routed, and why in one sentence."""

    name: str
    mode: ToolMode
    reason: str


def classify_tool_call(name: str, source: str = "", requires_approval: bool = False) -> ToolDecision:
    """Route a call by its tool's name, where the tool was declared (`request.tools` or a file), and its approval flag.

    A tool that the browser declared always runs there: a client cannot approve what the server would execute.
    """
    if name.startswith(FRONTEND_PREFIX) or source == FRONTEND_SOURCE:
        return ToolDecision(name, ToolMode.FRONTEND_EXECUTE, "the client declared this tool and runs it")
    if requires_approval:
        return ToolDecision(name, ToolMode.BACKEND_APPROVAL_INTERRUPT, "this tool needs a human's approval first")
    return ToolDecision(name, ToolMode.BACKEND_DIRECT_EXECUTE, "this tool runs on the backend at once")


def wire_name(name: str) -> str:
    """A tool's name in the alphabet that every provider takes; tools with one wire name cannot be told apart."""
    return _NOT_ON_THE_WIRE.sub("_", name)[:MAX_WIRE_NAME]


def check_names(declared: Iterable[Mapping[str, Any]], backend: Iterable[str]) -> None:
    """Refuse a client's tool whose name is taken; raises InvalidInput naming its place in the request."""
    taken = {wire_name(name): f"the backend's tool {name!r}" for name in backend}
    for index, tool in enumerate(declared):
        name = str(tool.get("name") or "")
        if (holder := taken.get(wire_name(name))) is not None:
            raise InvalidInput(f"tools.{index}.name: {name!r} is taken by {holder}; choose another name")
        taken[wire_name(name)] = f"tools.{index}.name"
