"""In: what a crew does, call by call. Out: AG-UI 1.0 events that every client accepts, in order.

Whatever the callers do, a START comes before its pieces, an END after them, step names are unique, and `close_open`
closes what is open, innermost first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.domain.event_batch import AguiEvent

WITHDRAWN = {"callboard": {"withdrawn": True}}
"""`metadata` of the TEXT_MESSAGE_END of a text that broke off and is not part of the conversation."""


class Sink(Protocol):
    def emit(self, event: AguiEvent) -> None: ...


class RunStream:
    """Emits into `sink`; keeps the books on what is open. Not thread-safe: used on the worker's loop only."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._open = OpenParts()
        self._texts: set[str] = set()
        self._reasoning: set[str] = set()
        self._calls: set[str] = set()
        self._seen_calls: set[str] = set()
        self._results: set[str] = set()
        self._activities: set[str] = set()
        self._steps: list[tuple[str, str]] = []  # (name asked for, name sent), in the order they were opened
        self._step_names: set[str] = set()  # all that were sent
        self._step_counts: Counter[str] = Counter()  # by name asked for

    # -- steps --------------------------------------------------------------------------------------------------------

    def step_started(self, name: str) -> None:
        """A stage begins; a name that was used before gets a number."""
        sent = self._unused(name)
        self._step_names.add(sent)
        self._steps.append((name, sent))
        self._marked({"type": "STEP_STARTED", "stepName": sent})

    def _unused(self, name: str) -> str:
        while True:
            self._step_counts[name] += 1
            count = self._step_counts[name]
            sent = name if count == 1 else f"{name} ({count})"
            if sent not in self._step_names:
                return sent

    def step_finished(self, name: str) -> None:
        """The newest open stage of this name ends; nothing happens if none is open."""
        for index in range(len(self._steps) - 1, -1, -1):
            if self._steps[index][0] == name:
                _, sent = self._steps.pop(index)
                self._marked({"type": "STEP_FINISHED", "stepName": sent})
                return

    # -- text and reasoning -------------------------------------------------------------------------------------------

    def text_started(self, message_id: str) -> None:
        if message_id not in self._texts:
            self._texts.add(message_id)
            self._marked({"type": "TEXT_MESSAGE_START", "messageId": message_id, "role": "assistant"})

    def text_delta(self, message_id: str, delta: str) -> None:
        """A piece of text; opens the message if need be. Empty pieces are left out."""
        if delta:
            self.text_started(message_id)
            self._sink.emit({"type": "TEXT_MESSAGE_CONTENT", "messageId": message_id, "delta": delta})

    def text_ended(self, message_id: str, *, withdrawn: bool = False) -> None:
        if message_id in self._texts:
            self._texts.discard(message_id)
            event: AguiEvent = {"type": "TEXT_MESSAGE_END", "messageId": message_id}
            self._marked(event | {"metadata": WITHDRAWN} if withdrawn else event)

    def reasoning_delta(self, message_id: str, delta: str) -> None:
        """A piece of reasoning; opens its span and message if need be."""
        if not delta:
            return
        if message_id not in self._reasoning:
            self._reasoning.add(message_id)
            self._marked({"type": "REASONING_START", "messageId": message_id})
            self._marked({"type": "REASONING_MESSAGE_START", "messageId": message_id, "role": "reasoning"})
        self._sink.emit({"type": "REASONING_MESSAGE_CONTENT", "messageId": message_id, "delta": delta})

    def reasoning_ended(self, message_id: str) -> None:
        if message_id in self._reasoning:
            self._reasoning.discard(message_id)
            self._marked({"type": "REASONING_MESSAGE_END", "messageId": message_id})
            self._marked({"type": "REASONING_END", "messageId": message_id})

    # -- tool calls ---------------------------------------------------------------------------------------------------

    def call_started(self, call_id: str, name: str, parent: str | None = None) -> None:
        """A tool call begins; each id begins once in a run, so that a client never sees two of it."""
        if call_id in self._seen_calls:
            return
        self._seen_calls.add(call_id)
        self._calls.add(call_id)
        event: AguiEvent = {"type": "TOOL_CALL_START", "toolCallId": call_id, "toolCallName": name}
        self._marked(event | {"parentMessageId": parent} if parent else event)

    def call_arguments(self, call_id: str, delta: str) -> None:
        if delta and call_id in self._calls:
            self._sink.emit({"type": "TOOL_CALL_ARGS", "toolCallId": call_id, "delta": delta})

    def call_ended(self, call_id: str) -> None:
        if call_id in self._calls:
            self._calls.discard(call_id)
            self._marked({"type": "TOOL_CALL_END", "toolCallId": call_id})

    def call_result(self, call_id: str, content: str, message_id: str) -> None:
        """The result of a call, once per call; the call may have been made in an earlier leg."""
        if call_id in self._results:
            return
        self._results.add(call_id)
        self.call_ended(call_id)
        result: AguiEvent = {"type": "TOOL_CALL_RESULT", "messageId": message_id, "toolCallId": call_id}
        self._sink.emit(result | {"content": content, "role": "tool"})

    # -- state and the rest -------------------------------------------------------------------------------------------

    def state_snapshot(self, state: Any) -> None:
        self._sink.emit({"type": "STATE_SNAPSHOT", "snapshot": {} if state is None else state})

    def state_delta(self, operations: Sequence[AguiEvent]) -> None:
        """RFC 6902 operations against the state last sent."""
        if operations:
            self._sink.emit({"type": "STATE_DELTA", "delta": list(operations)})

    def activity_snapshot(self, message_id: str, kind: str, content: AguiEvent) -> None:
        """Something that goes on beside the text, such as a plan, as a whole."""
        self._activities.add(message_id)
        event: AguiEvent = {"type": "ACTIVITY_SNAPSHOT", "messageId": message_id, "activityType": kind}
        self._sink.emit(event | {"content": content})

    def activity_delta(self, message_id: str, kind: str, operations: Sequence[AguiEvent]) -> None:
        """RFC 6902 operations against the activity last sent; nothing happens without one."""
        if operations and message_id in self._activities:
            event: AguiEvent = {"type": "ACTIVITY_DELTA", "messageId": message_id, "activityType": kind}
            self._sink.emit(event | {"patch": list(operations)})

    def custom(self, name: str, value: Any) -> None:
        self._sink.emit({"type": "CUSTOM", "name": name, "value": value})

    def close_open(self) -> None:
        """Close everything that is open, innermost first; does nothing the second time."""
        for event in self._open.closings():
            self._marked(event)
        self._texts.clear()
        self._reasoning.clear()
        self._calls.clear()
        self._steps.clear()

    def _marked(self, event: AguiEvent) -> None:
        self._open.see(event)
        self._sink.emit(event)
