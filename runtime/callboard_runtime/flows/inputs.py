"""In: a leg's brief. Out: what its flow is kicked off with, in the shape that flows for ag-ui-crewai expect."""

from __future__ import annotations

import re
from typing import Any, cast

from callboard_runtime.crew.history import chat_messages
from callboard_runtime.crew.turn import client_result
from callboard_runtime.domain.state_snapshot import PendingToolCall
from callboard_runtime.entry.brief import JournalRow, RunBrief
from callboard_runtime.flows.journal import leg_of

RESERVED = ("messages", "tools", "context", "copilotkit", "id")
"""Members of a flow's state that come with each request and are not part of the shared state."""

_OUR_PROPS = frozenset({"agentId", "multitaskStrategy"})


def kickoff_inputs(brief: RunBrief) -> dict[str, Any]:
    """The inputs: forwarded properties, over them the shared state, over that messages, tools and context."""
    props = {_snake(key): value for key, value in brief.input.forwarded_props.items() if key not in _OUR_PROPS}
    actions = [{"type": "function", "function": dict(tool)} for tool in brief.input.tools]
    return {
        **props,
        **shared_state(brief),
        "messages": conversation(brief),
        "tools": actions,
        "context": [dict(item) for item in brief.input.context],
        "copilotkit": {"actions": actions},
        "id": brief.thread_id,
    }


def conversation(brief: RunBrief) -> list[dict[str, Any]]:
    """The messages before this leg, without a leading system message."""
    messages = chat_messages(brief.history)
    for row in brief.journal:
        messages += _messages_of(row, brief.leg)
    return messages[1:] if messages and messages[0]["role"] == "system" else messages


def shared_state(brief: RunBrief) -> dict[str, Any]:
    """The shared state with which this leg began, in every attempt of it."""
    state = brief.initial_state
    for row in brief.journal:
        if _is_earlier(row, brief.leg) and row.kind == "tool" and row.result.get("state") is not None:
            state = row.result["state"]
    return cast(dict[str, Any], state) if isinstance(state, dict) else {}


def _is_earlier(row: JournalRow, leg: int) -> bool:
    made = leg_of(row.key)
    return made is not None and made < leg and row.status == "recorded"


def _messages_of(row: JournalRow, leg: int) -> list[dict[str, Any]]:
    if row.key.startswith("answer:"):
        answered = PendingToolCall.model_validate(row.result)
        content = client_result(answered).content
        return [{"role": "tool", "tool_call_id": answered.tool_call_id, "content": content}]
    if not _is_earlier(row, leg):
        return []
    if row.kind == "tool":
        return list(row.result.get("messages", ()))
    return [_answer(row.result)] if row.result.get("message_id") else []


def _answer(result: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": call["arguments"]}}
        for call in result.get("tool_calls", ())
    ]
    message: dict[str, Any] = {"role": "assistant", "content": result.get("text") or None}
    return message | ({"tool_calls": calls} if calls else {})


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
