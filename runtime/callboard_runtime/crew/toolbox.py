"""The tools of one agent in one task: how the model sees them, and which one it means by a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import orjson

from callboard_runtime.domain.tool_policy import wire_name
from callboard_runtime.llm.libraries import BaseTool, sanitize_tool_name
from callboard_runtime.llm.messages import ToolCall
from callboard_runtime.tools.journaled import JournaledTool
from callboard_runtime.tools.spec import Tool


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool on offer; `crewai` is CrewAI's own for one that delegates to a coworker."""

    tool: Tool
    crewai: BaseTool | None = None


@dataclass(frozen=True, slots=True)
class Asked:
    """What a call means: the tool, its arguments, or the problem for which it cannot be run."""

    offer: Offer | None
    arguments: dict[str, Any]
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Toolbox:
    offers: Mapping[str, Offer]  # by wire name

    @classmethod
    def of(cls, tools: Iterable[BaseTool]) -> Toolbox:
        """The first of two tools with one wire name counts; a run with such tools is not accepted."""
        offers: dict[str, Offer] = {}
        for tool in tools:
            offer = _offer(tool)
            offers.setdefault(wire_name(offer.tool.name), offer)
        return cls(offers)

    def wire(self) -> list[dict[str, Any]]:
        return [offer.tool.to_wire() for offer in self.offers.values()]

    def names(self) -> dict[str, str]:
        """Wire name -> the name that the tool was declared with."""
        return {wire: offer.tool.name for wire, offer in self.offers.items()}

    def read(self, call: ToolCall) -> Asked:
        """The call's tool and its arguments, checked against the tool's schema."""
        offer = self.offers.get(call.wire_name or call.name)
        if offer is None:
            return Asked(None, {}, f"there is no tool {call.name!r}")
        try:
            arguments = orjson.loads(call.arguments or "{}")
        except orjson.JSONDecodeError:
            return Asked(offer, {}, "the arguments are not JSON")
        if not isinstance(arguments, dict):
            return Asked(offer, {}, "the arguments are not a JSON object")
        given = cast(dict[str, Any], arguments)
        return Asked(offer, given, offer.tool.problem(given))

    def takes(self, call: ToolCall) -> bool:
        """Whether the call can be run as it is."""
        return self.read(call).problem is None


def _offer(tool: BaseTool) -> Offer:
    if isinstance(tool, JournaledTool):
        return Offer(tool.tool)
    schema = tool.args_schema.model_json_schema()
    described = Tool(sanitize_tool_name(tool.name), tool.description, {"type": "object", **schema})
    return Offer(described, tool)
