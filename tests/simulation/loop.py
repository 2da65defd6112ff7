"""An event loop without real time: when nothing is ready, the clock jumps to the next timer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Deadlock(AssertionError):
    """Nothing is ready and no timer is set: everybody waits for somebody."""


class SimLoop(asyncio.BaseEventLoop):
    """Runs callbacks in the order in which they became ready; `time()` is the simulation's."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._clock_resolution = 1e-9
        self._selector = _Clock(self)
        self.set_exception_handler(lambda _loop, context: self.stray.append(context))
        self.stray: list[dict[str, Any]] = []  # what no task was there to receive

    def time(self) -> float:
        return self._now

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run `main`, then cancel whatever it left behind."""
        try:
            return self.run_until_complete(main)
        finally:
            self._end_all()
            self.close()

    def _end_all(self) -> None:
        for _ in range(20):
            left = sorted(asyncio.all_tasks(self), key=lambda task: task.get_name())
            if not left:
                return
            for task in left:
                task.cancel()
            self.run_until_complete(asyncio.wait(left, timeout=60))

    def advance(self, seconds: float) -> None:
        self._now += seconds

    def _process_events(self, event_list: object) -> None:
        pass

    def _write_to_self(self) -> None:
        pass


class _Clock:
    """Stands where a loop waits for sockets."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def select(self, timeout: float | None) -> list[object]:
        if timeout is None:
            raise Deadlock
        self._loop.advance(max(0.0, timeout))
        return []
