"""What a tool is to a crew: a name, a description, a JSON schema, and who runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from callboard_runtime.domain.tool_policy import FRONTEND_SOURCE, ToolDecision, classify_tool_call, wire_name
from callboard_runtime.domain.tool_schema import ANY_OBJECT, arguments_problem, check_schemas
from callboard_runtime.errors import InvalidInput
from callboard_runtime.tools.state import StateView


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a backend tool may ask for by declaring a parameter of this type; the id is an idempotency key."""

    tool_call_id: str
    tool_name: str
    user_id: str
    thread_id: str
    run_id: UUID | None
    _state: StateView = field(default_factory=StateView, repr=False)

    @property
    def state(self) -> Any:
        """A copy of the shared state, with this call's own changes."""
        return self._state.value

    def patch_state(self, operations: Iterable[Mapping[str, Any]]) -> None:
        """Change the shared state by RFC 6902 operations; raises StateError (a ValueError), then nothing is changed.

        Clients see the change with the tool's result; a tool that fails changes nothing.
        """
        self._state.patch(operations)

    def set_state(self, value: Any) -> None:
        """Replace the shared state by `value`, an object or a list; the rest is as for `patch_state`."""
        self._state.replace(value)


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool as it is offered to the model; `function` is None for one that the client runs."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=lambda: ANY_OBJECT)
    source: str = ""  # FRONTEND_SOURCE for one that came with the request
    function: Callable[..., Any] | None = None
    timeout: float = 60  # seconds
    idempotent: bool = False
    requires_approval: bool = False

    def decision(self) -> ToolDecision:
        """Where a call of this tool runs."""
        return classify_tool_call(self.name, self.source, self.requires_approval)

    def problem(self, arguments: Mapping[str, Any]) -> str | None:
        """What is wrong with these arguments, as a sentence for the model; None when nothing is."""
        return arguments_problem(self.parameters, arguments)

    def to_wire(self) -> dict[str, Any]:
        """The tool as the provider sees it."""
        function = {
            "name": wire_name(self.name),
            "description": self.description,
            "parameters": dict(self.parameters),
        }
        return {"type": "function", "function": function}


def frontend_tools(declared: Iterable[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools that came with the request; raises InvalidInput naming one whose schema is none."""
    tools = tuple(declared)
    check_schemas(tools)  # once more: the run may have been accepted by another release, or without a front
    return tuple(_frontend_tool(index, tool) for index, tool in enumerate(tools))


def _frontend_tool(index: int, declared: Mapping[str, Any]) -> Tool:
    name = str(declared.get("name") or "")
    if not name:
        raise InvalidInput(f"tools.{index}.name: is missing")
    parameters = {"type": "object", **(declared.get("parameters") or ANY_OBJECT)}
    return Tool(name, str(declared.get("description") or name), parameters, source=FRONTEND_SOURCE)
