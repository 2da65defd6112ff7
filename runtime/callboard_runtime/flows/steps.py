"""Which methods of a flow are at work, shown as AG-UI steps; those that are only replayed are not shown again."""

from __future__ import annotations

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.stages import StageSteps


class MethodSteps(StageSteps):
    """Several methods may be open at once; each is shown with its first live work."""

    def __init__(self, stream: RunStream) -> None:
        super().__init__(stream)
        self._stream = stream
        self._open: list[tuple[str, bool]] = []  # (method, whether it is shown)

    def started(self, method: str, *, replaying: bool) -> None:
        self._open.append((method, False))
        if not replaying:
            self.live()

    def live(self) -> None:
        for index, (method, shown) in enumerate(self._open):
            if not shown:
                self._open[index] = (method, True)
                self._stream.step_started(method)

    def finished(self, method: str) -> None:
        for entry in reversed(self._open):
            if entry[0] == method:
                self._open.remove(entry)
                if entry[1]:
                    self._stream.step_finished(method)
                return
