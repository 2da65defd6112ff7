"""What a page shows in the middle of a leg: messages with the text so far, the state, and what is still open.

In: the session's messages as the database has them, then the events of the leg's present epoch.
Out: the events after which a page that knew nothing shows the same as one that saw everything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.agui.run_events import state_snapshot
from callboard_runtime.agui.stream import WITHDRAWN
from callboard_runtime.domain.event_batch import AguiEvent

_REPEATED = ("STATE_DELTA", "ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA")  # sent again as they are, in their order


class Scene:
    """Fold events into it with `see`. A message that the database has is as the database has it."""

    def __init__(self, messages: Iterable[AguiEvent], shared_state: Any) -> None:
        self._kept = {message["id"]: message for message in messages}
        self._kept_calls = {call["id"] for message in self._kept.values() for call in message.get("toolCalls", ())}
        self._new: dict[str, AguiEvent] = {}  # messages that no row has yet
        self._arguments: dict[str, AguiEvent] = {}  # the `function` of each call that no row has yet
        self._state: list[AguiEvent] = [state_snapshot(shared_state)]
        self._parts = OpenParts()
        self._starts: list[AguiEvent] = []

    def see(self, event: AguiEvent) -> None:
        self._parts.see(event)
        if event["type"].endswith(("_START", "_STARTED")):
            self._starts.append(event)
        if handler := _HANDLERS.get(event["type"]):
            handler(self, event)

    def events(self) -> list[AguiEvent]:
        """MESSAGES_SNAPSHOT, STATE_SNAPSHOT, and the starts of what is open, outermost first."""
        snapshot: AguiEvent = {"type": "MESSAGES_SNAPSHOT", "messages": [*self._kept.values(), *self._new.values()]}
        return [snapshot, *self._state, *self._open()]

    def _open(self) -> list[AguiEvent]:
        ends = self._parts.closings()
        return [start for start in self._starts if any(_closes(end, start) for end in ends)]

    # -- messages -----------------------------------------------------------------------------------------------------

    def text_start(self, event: AguiEvent) -> None:
        self._begin(event["messageId"], event.get("role", "assistant"))

    def reasoning_start(self, event: AguiEvent) -> None:
        self._begin(event["messageId"], "reasoning")

    def _begin(self, message_id: str, role: str) -> None:
        if message_id not in self._kept:
            message = self._new.setdefault(message_id, {"id": message_id, "role": role})
            message.setdefault("content", "")

    def content(self, event: AguiEvent) -> None:
        if message := self._new.get(event["messageId"]):
            message["content"] += event["delta"]

    def text_end(self, event: AguiEvent) -> None:
        if event.get("metadata") == WITHDRAWN:
            self._new.pop(event["messageId"], None)

    def reasoning_end(self, event: AguiEvent) -> None:
        """No row keeps what was thought; a thought shows while it is being thought."""
        self._new.pop(event["messageId"], None)

    def call_start(self, event: AguiEvent) -> None:
        call_id = event["toolCallId"]
        if call_id in self._kept_calls or call_id in self._arguments:
            return
        function = self._arguments[call_id] = {"name": event["toolCallName"], "arguments": ""}
        call = {"id": call_id, "type": "function", "function": function}
        owner = event.get("parentMessageId", call_id)
        if kept := self._kept.get(owner):
            self._kept[owner] = kept | {"toolCalls": [*kept.get("toolCalls", ()), call]}
        else:
            self._new.setdefault(owner, {"id": owner, "role": "assistant"}).setdefault("toolCalls", []).append(call)

    def call_arguments(self, event: AguiEvent) -> None:
        if function := self._arguments.get(event["toolCallId"]):
            function["arguments"] += event["delta"]

    def call_result(self, event: AguiEvent) -> None:
        if event["messageId"] not in self._kept:
            result = {"role": "tool", "toolCallId": event["toolCallId"], "content": event["content"]}
            self._new[event["messageId"]] = {"id": event["messageId"], **result}

    def messages(self, event: AguiEvent) -> None:
        """A snapshot takes back whatever it does not hold."""
        self._arguments.clear()
        self._new = {m["id"]: dict(m) for m in event["messages"] if m["id"] not in self._kept}

    # -- state --------------------------------------------------------------------------------------------------------

    def state_snapshot(self, event: AguiEvent) -> None:
        self._state = [event, *(e for e in self._state if e["type"].startswith("ACTIVITY"))]

    def repeat(self, event: AguiEvent) -> None:
        self._state.append(event)


_HANDLERS = {
    "TEXT_MESSAGE_START": Scene.text_start,
    "TEXT_MESSAGE_CONTENT": Scene.content,
    "TEXT_MESSAGE_END": Scene.text_end,
    "REASONING_MESSAGE_START": Scene.reasoning_start,
    "REASONING_MESSAGE_CONTENT": Scene.content,
    "REASONING_MESSAGE_END": Scene.reasoning_end,
    "TOOL_CALL_START": Scene.call_start,
    "TOOL_CALL_ARGS": Scene.call_arguments,
    "TOOL_CALL_RESULT": Scene.call_result,
    "MESSAGES_SNAPSHOT": Scene.messages,
    "STATE_SNAPSHOT": Scene.state_snapshot,
    **dict.fromkeys(_REPEATED, Scene.repeat),
}


def _closes(end: AguiEvent, start: AguiEvent) -> bool:
    opened = end["type"].replace("_FINISHED", "_STARTED").replace("_END", "_START")
    return opened == start["type"] and all(start.get(key) == value for key, value in end.items() if key != "type")
