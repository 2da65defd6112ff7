"""Where one answer to a flow is shown: to the user, or to nobody but the flow."""

from __future__ import annotations

from collections.abc import Sequence

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.stages import StageSteps
from callboard_runtime.crew.view import StageView
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.llm.caller import View
from callboard_runtime.llm.messages import ModelAnswer, ToolCall


class HiddenView:
    """An answer that the flow asked for without showing it: it has no message id."""

    message_id = ""

    def text(self, delta: str) -> None: ...
    def reasoning(self, delta: str) -> None: ...
    def calls(self, valid: Sequence[ToolCall]) -> None: ...
    def ended(self) -> None: ...
    def withdrawn(self) -> None: ...

    def messages(self, answer: ModelAnswer) -> tuple[NewMessage, ...]:
        return ()


def view_for(stream: RunStream, steps: StageSteps, *, visible: bool) -> View:
    """A view of one try."""
    return StageView(stream, steps, visible=True) if visible else HiddenView()
