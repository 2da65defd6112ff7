"""What a sequence of AG-UI events has opened and not closed: the one place that knows how to close it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from callboard_runtime.domain.event_batch import AguiEvent

_PAIRS = {
    "TEXT_MESSAGE_START": ("TEXT_MESSAGE_END", "messageId"),
    "TOOL_CALL_START": ("TOOL_CALL_END", "toolCallId"),
    "REASONING_MESSAGE_START": ("REASONING_MESSAGE_END", "messageId"),
    "REASONING_START": ("REASONING_END", "messageId"),
    "STEP_STARTED": ("STEP_FINISHED", "stepName"),
    "SUBAGENT_STARTED": ("SUBAGENT_FINISHED", "subagentRunId"),
}
_ENDS = {end for end, _ in _PAIRS.values()} | {"SUBAGENT_ERROR"}


@dataclass(slots=True)
class OpenParts:
    """Fold events into it with `see`; `closings` are the events that close what is open, innermost first."""

    texts: dict[str, str] = field(default_factory=dict)  # assistant text so far, by message id: open or closed
    _open: list[AguiEvent] = field(default_factory=list)

    @classmethod
    def of(cls, events: Iterable[AguiEvent]) -> OpenParts:
        parts = cls()
        for event in events:
            parts.see(event)
        return parts

    def see(self, event: AguiEvent) -> None:
        """Take in the next event of the sequence; a RUN_STARTED begins anew, a RUN_ERROR closes everything."""
        kind = event["type"]
        if kind in _PAIRS:
            self._open.append(_closing(event))
        elif kind in _ENDS:
            self._close(event)
        elif kind in ("RUN_STARTED", "RUN_ERROR", "RUN_FINISHED"):
            self._open.clear()
        self._note_text(event)

    def closings(self) -> list[AguiEvent]:
        return list(reversed(self._open))

    def _close(self, event: AguiEvent) -> None:
        wanted = event | {"type": "SUBAGENT_FINISHED"} if event["type"] == "SUBAGENT_ERROR" else event
        for index in range(len(self._open) - 1, -1, -1):
            if self._open[index].items() <= wanted.items():
                del self._open[index]
                return

    def _note_text(self, event: AguiEvent) -> None:
        if event["type"] == "TEXT_MESSAGE_START" and event.get("role", "assistant") == "assistant":
            self.texts.setdefault(event["messageId"], "")
        elif event["type"] == "TEXT_MESSAGE_CONTENT" and event["messageId"] in self.texts:
            self.texts[event["messageId"]] += event["delta"]


def _closing(start: AguiEvent) -> AguiEvent:
    end, key = _PAIRS[start["type"]]
    owner = {"subagentRunId": start["subagentRunId"]} if "subagentRunId" in start else {}
    return {"type": end, key: start[key], **owner}
