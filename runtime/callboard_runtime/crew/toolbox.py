"""The tools of one agent in one task: how the model sees them, and which one it means by a name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from callboard_runtime.domain.tool_policy import wire_name
from callboard_runtime.llm.libraries import BaseTool, sanitize_tool_name
from callboard_runtime.tools.journaled import JournaledTool
from callboard_runtime.tools.spec import Tool


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool on offer; `crewai` is CrewAI's own for one that delegates to a coworker."""

    tool: Tool
    crewai: BaseTool | None = None


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


def _offer(tool: BaseTool) -> Offer:
    if isinstance(tool, JournaledTool):
        return Offer(tool.tool)
    schema = tool.args_schema.model_json_schema()
    described = Tool(sanitize_tool_name(tool.name), tool.description, {"type": "object", **schema})
    return Offer(described, tool)
