"""What a page shows after AG-UI events: a model of the reducer in `@ag-ui/client`."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from unit.agui_verifier import Verifier

Json = dict[str, Any]


@dataclass
class Page:
    """Feed it events with `see`; it also enforces what the client does."""

    messages: list[Json] = field(default_factory=list)
    state: Any = field(default_factory=dict)
    verifier: Verifier = field(default_factory=Verifier)

    @classmethod
    def of(cls, events: Iterable[Json], messages: Iterable[Json] = ()) -> Page:
        page = cls(copy.deepcopy(list(messages)))
        for event in events:
            page.see(event)
        return page

    def see(self, event: Json) -> None:
        self.verifier.see(event)
        event = copy.deepcopy(event)
        match event["type"]:
            case "RUN_STARTED":
                for message in (event.get("input") or {}).get("messages", ()):
                    self._known(message["id"]) or self.messages.append(message)
            case "TEXT_MESSAGE_START":
                self._begin(event["messageId"], event.get("role", "assistant")).setdefault("content", "")
            case "REASONING_MESSAGE_START":
                self._begin(event["messageId"], "reasoning").setdefault("content", "")
            case "TEXT_MESSAGE_CONTENT" | "REASONING_MESSAGE_CONTENT":
                if message := self._known(event["messageId"]):
                    message["content"] = message.get("content", "") + event["delta"]
            case "TOOL_CALL_START":
                self._call_begins(event)
            case "TOOL_CALL_ARGS":
                for call in self._calls():
                    if call["id"] == event["toolCallId"]:
                        call["function"]["arguments"] += event["delta"]
            case "TOOL_CALL_RESULT":
                self._result(event)
            case "MESSAGES_SNAPSHOT":
                self._snapshot(event["messages"])
            case "STATE_SNAPSHOT":
                self.state = event["snapshot"]
            case "STATE_DELTA":
                for operation in event["delta"]:  # the tests only add members of the top level
                    self.state = self.state | {operation["path"][1:]: operation["value"]}
            case _:
                pass

    def said(self) -> list[Json]:
        """The messages but for thoughts, which nobody keeps; without empty members."""
        kept = [message for message in self.messages if message["role"] != "reasoning"]
        return [{name: value for name, value in message.items() if value not in ("", [], None)} for message in kept]

    def _known(self, message_id: str) -> Json | None:
        return next((message for message in self.messages if message["id"] == message_id), None)

    def _begin(self, message_id: str, role: str) -> Json:
        if (message := self._known(message_id)) is None:
            self.messages.append(message := {"id": message_id, "role": role})
        return message

    def _calls(self) -> list[Json]:
        return [call for message in self.messages for call in message.get("toolCalls", ())]

    def _call_begins(self, event: Json) -> None:
        if any(call["id"] == event["toolCallId"] for call in self._calls()):
            return
        owner = self._begin(event.get("parentMessageId") or event["toolCallId"], "assistant")
        function = {"name": event["toolCallName"], "arguments": ""}
        owner.setdefault("toolCalls", []).append({"id": event["toolCallId"], "type": "function", "function": function})

    def _result(self, event: Json) -> None:
        result = {"id": event["messageId"], "role": "tool", "content": event["content"]}
        result["toolCallId"] = event["toolCallId"]
        self.messages.append(result)

    def _snapshot(self, given: list[Json]) -> None:
        ids = {message["id"] for message in given}
        thoughts = any(message["role"] == "reasoning" for message in given)
        kept = [m for m in self.messages if m["id"] in ids or (m["role"] == "reasoning" and not thoughts)]
        new = {message["id"]: message for message in given}
        self.messages = [new.pop(message["id"], message) for message in kept]
        self.messages += new.values()
