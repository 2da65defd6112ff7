"""What a tool is to a crew: a name, a description, a JSON schema, and who runs it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import UUID

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match  # pyright: ignore[reportUnknownVariableType]

from callboard_runtime.domain.tool_policy import FRONTEND_SOURCE, ToolDecision, classify_tool_call, wire_name
from callboard_runtime.errors import InvalidInput
from callboard_runtime.tools.state import StateView

_ANY_OBJECT: dict[str, Any] = {"type": "object", "properties": {}}


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
    parameters: Mapping[str, Any] = field(default_factory=lambda: _ANY_OBJECT)
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
        error = cast(Any, best_match(Draft202012Validator(dict(self.parameters)).iter_errors(dict(arguments))))  # pyright: ignore[reportUnknownMemberType]
        if error is None:
            return None
        where = "/".join(str(part) for part in error.absolute_path)
        return f"argument {where or 'object'}: {error.message[:300]}"

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
    return tuple(_frontend_tool(index, tool) for index, tool in enumerate(declared))


def _frontend_tool(index: int, declared: Mapping[str, Any]) -> Tool:
    name = str(declared.get("name") or "")
    if not name:
        raise InvalidInput(f"tools.{index}.name: is missing")
    given: Any = declared.get("parameters") or _ANY_OBJECT
    if not isinstance(given, dict):
        raise InvalidInput(f"tools.{index}.parameters: must be a JSON schema, an object")
    parameters = {"type": "object", **cast(dict[str, Any], given)}
    try:
        Draft202012Validator.check_schema(parameters)
    except SchemaError as error:
        raise InvalidInput(f"tools.{index}.parameters: not a JSON schema: {error.message[:200]}") from None
    return Tool(name, str(declared.get("description") or name), parameters, source=FRONTEND_SOURCE)
