"""Where one answer of a stage is shown: as text in a visible stage, as tool calls in every stage."""

from __future__ import annotations

import uuid

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.stages import StageSteps
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.llm.messages import ModelAnswer


class StageView:
    """Shows one try of one answer under a message id of its own.

    A hidden stage shows no text, but its tool calls: someone may have to answer them.
    """

    def __init__(self, stream: RunStream, steps: StageSteps, *, visible: bool) -> None:
        self.message_id = str(uuid.uuid4())
        self._stream = stream
        self._visible = visible
        self._reasoning_id = str(uuid.uuid4())
        self._calls: list[str] = []
        steps.live()

    def text(self, delta: str) -> None:
        if self._visible:
            self._stream.reasoning_ended(self._reasoning_id)
            self._stream.text_delta(self.message_id, delta)

    def reasoning(self, delta: str) -> None:
        if self._visible:
            self._stream.reasoning_delta(self._reasoning_id, delta)

    def call_started(self, call_id: str, name: str) -> None:
        self._stream.reasoning_ended(self._reasoning_id)
        self._stream.text_ended(self.message_id)
        self._calls.append(call_id)
        self._stream.call_started(call_id, name, self.message_id)

    def call_arguments(self, call_id: str, delta: str) -> None:
        self._stream.call_arguments(call_id, delta)

    def ended(self) -> None:
        self._close(withdrawn=False)

    def withdrawn(self) -> None:
        self._close(withdrawn=True)

    def messages(self, answer: ModelAnswer) -> tuple[NewMessage, ...]:
        """The row that the answer makes: none for the text of a hidden stage."""
        text = answer.text if self._visible else ""
        if not text and not answer.tool_calls:
            return ()
        calls = tuple(call.to_agui() for call in answer.tool_calls)
        return (NewMessage(message_id=self.message_id, role="assistant", content=text or None, tool_calls=calls),)

    def _close(self, *, withdrawn: bool) -> None:
        self._stream.reasoning_ended(self._reasoning_id)
        self._stream.text_ended(self.message_id, withdrawn=withdrawn)
        for call_id in self._calls:
            self._stream.call_ended(call_id)
