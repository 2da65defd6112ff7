"""In: the pinned conversation. Out: chat messages for a model; what a model cannot read is named instead of sent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import orjson

from callboard_runtime.domain.tool_policy import wire_name
from callboard_runtime.entry.brief import HistoryMessage

_ROLES = {"developer": "system", "system": "system", "user": "user", "assistant": "assistant", "tool": "tool"}


def chat_messages(history: Iterable[HistoryMessage]) -> list[dict[str, Any]]:
    """The history in OpenAI's form; activity and reasoning messages are left out."""
    return [_chat_message(message) for message in history if message.role in _ROLES]


def text_of(content: Any) -> str:
    """The text of a message's content, of its text parts only."""
    if isinstance(content, str):
        return content
    parts = cast(Sequence[Mapping[str, Any]], content or ())
    return "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")


def _chat_message(message: HistoryMessage) -> dict[str, Any]:
    role = _ROLES[message.role]
    chat: dict[str, Any] = {"role": role, "content": _content(message.content, role)}
    if role == "assistant" and message.tool_calls:
        chat["tool_calls"] = [_call(call) for call in message.tool_calls]
    if role == "tool":
        chat["tool_call_id"] = message.tool_call_id or ""
        chat["content"] = chat["content"] or ""
    return chat


def _call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = cast(Mapping[str, Any], call.get("function") or {})
    named = {"name": wire_name(str(function.get("name", ""))), "arguments": str(function.get("arguments", "{}"))}
    return {"id": call.get("id", ""), "type": "function", "function": named}


def _content(content: Any, role: str) -> Any:
    if content is None or isinstance(content, str):
        return content
    if role != "user":
        return text_of(content) or orjson.dumps(content).decode()
    return [_part(part) for part in cast(Sequence[Mapping[str, Any]], content)]


def _part(part: Mapping[str, Any]) -> dict[str, Any]:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": str(part.get("text", ""))}
    source = cast(Mapping[str, Any], part.get("source") or {})
    if kind == "image" and source.get("type") == "url":
        return {"type": "image_url", "image_url": {"url": source.get("value", "")}}
    if kind == "image" and source.get("type") == "data":
        url = f"data:{source.get('mimeType', 'image/png')};base64,{source.get('value', '')}"
        return {"type": "image_url", "image_url": {"url": url}}
    return {"type": "text", "text": f"[the user attached a {kind} that this model cannot read]"}
