"""A tool as CrewAI sees it; its calls are run, journaled and answered by the turn they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, PrivateAttr

from callboard_runtime.llm.libraries import BaseTool
from callboard_runtime.tools.spec import Tool


class AnyArguments(BaseModel):
    """Takes anything: arguments are checked against the tool's own JSON schema."""

    model_config = ConfigDict(extra="allow")


class JournaledTool(BaseTool):
    """Carries a Tool through CrewAI."""

    name: str
    description: str
    args_schema: type[BaseModel] = AnyArguments
    _tool: Tool = PrivateAttr()

    @classmethod
    def wrap(cls, tool: Tool) -> JournaledTool:
        wrapped = cls(name=tool.name, description=tool.description)
        wrapped._tool = tool
        return wrapped

    @property
    def tool(self) -> Tool:
        return self._tool

    def _run(self, *_: Any, **__: Any) -> Any:
        # Without a call id there is nothing to journal it under, and a second attempt would run it again.
        raise RuntimeError(f"tool {self.name} runs only as part of a journaled turn")


def wrap_all(tools: Sequence[Tool]) -> list[BaseTool]:
    return [JournaledTool.wrap(tool) for tool in tools]
