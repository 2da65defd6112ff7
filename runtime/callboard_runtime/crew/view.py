"""Where one answer of a stage is shown: as text in a visible stage, as tool calls in every stage."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.stages import StageSteps
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.llm.messages import ModelAnswer, ToolCall

ARGUMENTS_PIECE = 8192  # characters of a call's arguments in one event


class StageView:
    """Shows one try of one answer under a message id of its own.

    A hidden stage shows no text, but its tool calls: someone may have to answer them. Calls that cannot be run are
    not shown at all, nor kept in the messages.
    """

    def __init__(self, stream: RunStream, steps: StageSteps, *, visible: bool) -> None:
        self.message_id = str(uuid.uuid4())
        self._stream = stream
        self._visible = visible
        self._reasoning_id = str(uuid.uuid4())
        self._shown: tuple[ToolCall, ...] = ()
        steps.live()

    def text(self, delta: str) -> None:
        if self._visible:
            self._stream.reasoning_ended(self._reasoning_id)
            self._stream.text_delta(self.message_id, delta)

    def reasoning(self, delta: str) -> None:
        if self._visible:
            self._stream.reasoning_delta(self._reasoning_id, delta)

    def calls(self, valid: Sequence[ToolCall]) -> None:
        """Show the calls of the whole answer; each is whole, and can be acted upon."""
        self._close(withdrawn=False)
        self._shown = tuple(valid)
        for call in valid:
            self._stream.call_started(call.id, call.name, self.message_id)
            for start in range(0, len(call.arguments), ARGUMENTS_PIECE):
                self._stream.call_arguments(call.id, call.arguments[start : start + ARGUMENTS_PIECE])
            self._stream.call_ended(call.id)

    def ended(self) -> None:
        self._close(withdrawn=False)

    def withdrawn(self) -> None:
        self._close(withdrawn=True)

    def messages(self, answer: ModelAnswer) -> tuple[NewMessage, ...]:
        """The row that the answer makes: of its text if the stage is visible, and of the calls that were shown."""
        text = answer.text if self._visible else ""
        if not text and not self._shown:
            return ()
        calls = tuple(call.to_agui() for call in self._shown)
        return (NewMessage(message_id=self.message_id, role="assistant", content=text or None, tool_calls=calls),)

    def _close(self, *, withdrawn: bool) -> None:
        self._stream.reasoning_ended(self._reasoning_id)
        self._stream.text_ended(self.message_id, withdrawn=withdrawn)
