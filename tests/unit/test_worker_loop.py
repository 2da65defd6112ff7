"""The end of a worker's loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from callboard_runtime.entry import worker_loop
from callboard_runtime.entry.loop_thread import LoopThread
from callboard_runtime.entry.worker_loop import WorkerLoop
from callboard_runtime.settings import Settings


def test_a_service_that_does_not_let_go_does_not_keep_the_thread(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker_loop, "CLOSE_TIMEOUT", 0.05)
    loop, thread = WorkerLoop(Settings()), LoopThread("stuck-worker")
    loop._thread = thread

    async def stuck() -> None:
        await asyncio.Event().wait()

    loop._stack.push_async_callback(stuck)
    loop.close()
    assert "did not let go" in caplog.text
    assert "stuck-worker" not in {alive.name for alive in threading.enumerate()}
