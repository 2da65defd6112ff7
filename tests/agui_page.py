"""A page that speaks AG-UI over plain HTTP: keeps messages and state as a client does, runs, answers, resumes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import jsonpatch

from front_client import Frame, FrontClient, Json, frames, fresh
from unit.agui_verifier import verify

AGUI = "/api/v1/agent/agui"


@dataclass
class Page:
    """One thread of one agent. `generation` is `current`, or `previous` for a client of before AG-UI 1.0."""

    client: FrontClient
    agent: str = "demo"
    generation: str = "current"
    tools: tuple[Json, ...] = ()
    thread: str = field(default_factory=lambda: fresh("thread"))
    messages: list[Json] = field(default_factory=list)
    state: Any = None
    run: str = ""  # the last runId used

    async def say(self, text: str, **more: Any) -> list[Frame]:
        """Start a run with one more message, and read it to its end."""
        self.messages.append({"id": fresh("message"), "role": "user", "content": text})
        return await self.send(**more)

    async def result(self, call: str, content: str, **more: Any) -> list[Frame]:
        """Answer a call of the page's own tools with a tool message."""
        self.messages.append({"id": fresh("message"), "role": "tool", "toolCallId": call, "content": content})
        return await self.send(**more)

    async def decide(self, interrupt: str, payload: Any = None, status: str = "resolved", **more: Any) -> list[Frame]:
        """Answer an interrupt with `resume[]`."""
        entry = {"interruptId": interrupt, "status": status} | ({"payload": payload} if payload is not None else {})
        return await self.send(resume=[entry], **more)

    async def send(self, *, run: str | None = None, **more: Any) -> list[Frame]:
        """Post what the page holds; asserts that every client of this generation could read the answer."""
        self.run = run or fresh("run")
        async with self.client.http.post(self._url, json=self.body(**more)) as response:
            assert response.status == 200, (response.status, await response.text())
            seen = [frame async for frame in frames(response)]
        verify(frame.event for frame in seen)
        for frame in seen:
            self._take(frame.event)
        return seen

    def body(self, **more: Any) -> Json:
        """The RunAgentInput of the next request."""
        version = {"protocolVersion": "1.0"} if self.generation == "current" else {}
        about = {"threadId": self.thread, "runId": self.run or fresh("run"), "messages": self.messages}
        empty = {"state": {} if self.state is None else self.state, "context": [], "forwardedProps": {}}
        return {**about, **empty, "tools": list(self.tools), **version, **more}

    @property
    def _url(self) -> str:
        return f"{self.client.bases[0]}{AGUI}/{self.agent}"

    def _take(self, event: Json) -> None:
        match event["type"]:
            case "STATE_SNAPSHOT":
                self.state = event["snapshot"]
            case "STATE_DELTA":
                self.state = jsonpatch.apply_patch(self.state, event["delta"])
            case "MESSAGES_SNAPSHOT":
                self.messages = list(event["messages"])
            case "TEXT_MESSAGE_START":
                self._message(event["messageId"])["content"] = ""
            case "TEXT_MESSAGE_CONTENT":
                self._message(event["messageId"])["content"] += event["delta"]
            case "TOOL_CALL_START":
                call = {"id": event["toolCallId"], "type": "function"}
                function = {"name": event["toolCallName"], "arguments": ""}
                owner = self._message(event.get("parentMessageId") or event["toolCallId"])
                owner.setdefault("toolCalls", []).append(call | {"function": function})
            case "TOOL_CALL_RESULT":
                about = {"id": event["messageId"], "role": "tool", "toolCallId": event["toolCallId"]}
                self.messages.append(about | {"content": event["content"]})
            case _:
                pass

    def _message(self, message_id: str) -> Json:
        for message in self.messages:
            if message["id"] == message_id:
                return message
        self.messages.append({"id": message_id, "role": "assistant"})
        return self.messages[-1]


def interrupts(seen: list[Frame]) -> list[Json]:
    """What the leg waits for humans to decide; none if it waits for none."""
    assert seen[-1].type == "RUN_FINISHED", seen[-1]
    return (seen[-1].event.get("outcome") or {}).get("interrupts") or []


def calls(seen: list[Frame]) -> dict[str, str]:
    """The ids of the calls that were shown, by the tool's name; the last one of several."""
    return {f.event["toolCallName"]: f.event["toolCallId"] for f in seen if f.type == "TOOL_CALL_START"}


def text(seen: list[Frame]) -> str:
    return "".join(frame.event["delta"] for frame in seen if frame.type == "TEXT_MESSAGE_CONTENT")
