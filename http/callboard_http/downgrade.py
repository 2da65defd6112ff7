"""Frames that clients of before AG-UI 1.0 reject, in the form that those accept.

In: a chunk in the 1.0 form.
Out: the same events under the same ids, each of them acceptable to `@ag-ui/client` 0.0.59.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import orjson

from callboard_http.chunk import Chunk
from callboard_runtime.domain.event_batch import AguiEvent

_SUSPECT = re.compile(rb'"type":"(?:RUN_FINISHED|TOOL_CALL_RESULT|MESSAGES_SNAPSHOT|RUN_STARTED)"')


def speaks_current(protocol_version: str | None) -> bool:
    """Whether a client that names this version takes the 1.0 form; one that names none does not."""
    major = (protocol_version or "").partition(".")[0]
    return re.fullmatch("0*[1-9][0-9]*", major) is not None


def downgraded(chunk: Chunk) -> Chunk:
    """The chunk for an older client; the same object when nothing in it needs a change."""
    if not _SUSPECT.search(chunk.body):
        return chunk
    lines = [_line(line) for line in chunk.body.split(b"\n")]
    return replace(chunk, body=b"\n".join(lines))


def _line(line: bytes) -> bytes:
    if not _SUSPECT.search(line):
        return line
    event: AguiEvent = orjson.loads(line)
    change = _CHANGES.get(event["type"])
    return orjson.dumps(change(event)) if change else line


def _run_finished(event: AguiEvent) -> AguiEvent:
    outcome: dict[str, Any] = event.get("outcome") or {}
    if outcome.get("type") == "cancelled":
        usage = {"usage": event["usage"]} if "usage" in event else {}
        return {"type": "RUN_ERROR", "message": "The run was cancelled.", "code": "abort", **usage}
    if outcome.get("type") == "success":
        return event | {"outcome": {"type": "success"}}
    if outcome.get("type") == "interrupt":
        return event | {"outcome": outcome | {"interrupts": [_interrupt(item) for item in outcome["interrupts"]]}}
    return event


def _interrupt(interrupt: dict[str, Any]) -> dict[str, Any]:
    """Without `expiresAt`: an older client cannot even cancel an expired interrupt, which blocks its thread."""
    return {key: value for key, value in interrupt.items() if key != "expiresAt"}


def _tool_call_result(event: AguiEvent) -> AguiEvent:
    return event | {"content": _text(event["content"])}


def _messages_snapshot(event: AguiEvent) -> AguiEvent:
    return event | {"messages": [_message(message) for message in event["messages"]]}


def _run_started(event: AguiEvent) -> AguiEvent:
    given: dict[str, Any] | None = event.get("input")
    if not given or not given.get("messages"):
        return event
    return event | {"input": given | {"messages": [_message(message) for message in given["messages"]]}}


def _message(message: dict[str, Any]) -> dict[str, Any]:
    return message | {"content": _text(message["content"])} if message.get("role") == "tool" else message


def _text(content: Any) -> str:
    """Tool content as the string that older clients insist on: text parts joined, other parts as JSON."""
    if isinstance(content, str):
        return content
    parts: list[dict[str, Any]] = content
    if all(part.get("type") == "text" for part in parts):
        return "".join(part["text"] for part in parts)
    return orjson.dumps(parts).decode()


_CHANGES = {
    "RUN_FINISHED": _run_finished,
    "TOOL_CALL_RESULT": _tool_call_result,
    "MESSAGES_SNAPSHOT": _messages_snapshot,
    "RUN_STARTED": _run_started,
}
