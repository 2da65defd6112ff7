"""Where a tool call runs: in the browser, on the backend, or on the backend after a human approves."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

FRONTEND_PREFIX = "ui."
FRONTEND_SOURCE = "request.tools"


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
