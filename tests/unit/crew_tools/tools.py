"""Tools of these tests' own, a model that calls them, and how a paused run goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from callboard_runtime.config.parts import ToolConfig
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.settings import Settings
from unit.crew_world import Ran, config, run, scripts, stage, tool

NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}
ADD = tool("add", "mytools:add", parameters=NUMBERS)
PLAIN = tool("plain", "mytools:plain", parameters={"type": "object", "properties": {"text": {"type": "string"}}})
ASKED = tool("wire_money", "mytools:add", parameters=NUMBERS, requires_approval=True)


def with_tools(*tools: ToolConfig, **fields: Any) -> RuntimeConfig:
    names = [one.name for one in tools]
    return config(stage("answer", visible=True, tools=names, **fields), tools={one.name: one for one in tools})


def scripted(settings: Settings, directory: Path, *entries: dict[str, Any]) -> Settings:
    return settings.model_copy(
        update={"llm": settings.llm.model_copy(update={"scripts": scripts(directory / "s", *entries)})}
    )


def settled(call: PendingToolCall, said: str, payload: Any = None, edited_args: Any = None) -> JournalRow:
    """The row that the actor writes for an answer."""
    means = {
        "approved": "APPROVED",
        "retry": "APPROVED",
        "result": "EXECUTED",
        "rejected": "REJECTED",
        "fail": "REJECTED",
    }
    answer = {"status": said, "payload": payload, "editedArgs": edited_args}
    args = edited_args if edited_args is not None else call.args
    result = call.but(status=ToolCallStatus(means[said]), args=args, answer=answer).model_dump(mode="json")
    return JournalRow(f"answer:{call.tool_call_id}", "answer", call.tool_name, "", "recorded", result, 1)


async def resume(first: Ran, given: Any, settings: Settings, said: str, **answer: Any) -> Ran:
    assert first.outcome is not None
    rows = (settled(call, said, **answer) for call in first.outcome.calls)
    return await run(dataclasses.replace(given, leg=2, journal=(*first.journal.rows(), *rows)), settings)
