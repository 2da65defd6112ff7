"""Which stage the crew is in, shown as AG-UI steps; a stage that is only replayed is not shown again."""

from __future__ import annotations

from callboard_runtime.agui.stream import RunStream


class StageSteps:
    """Follows one run's stages; a step opens with the stage's first live work, or at once when nothing is replayed."""

    def __init__(self, stream: RunStream) -> None:
        self._stream = stream
        self._current: str | None = None
        self._shown = False

    def enter(self, stage: str, *, replaying: bool) -> None:
        """The crew comes to `stage`; the one before it ends."""
        if stage == self._current:
            return
        self.leave()
        self._current = stage
        if not replaying:
            self.live()

    def live(self) -> None:
        """Something happens now that no earlier attempt has done."""
        if self._current is not None and not self._shown:
            self._shown = True
            self._stream.step_started(self._current)

    def leave(self) -> None:
        """The current stage is done."""
        if self._current is not None and self._shown:
            self._stream.step_finished(self._current)
        self._current, self._shown = None, False
