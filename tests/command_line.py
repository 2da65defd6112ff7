"""`callboard …` in this process: what a shell would get of it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable

import pytest

from callboard_runtime import cli

Run = Callable[..., int]
Answer = tuple[int, str, str]  # exit code, output, errors
AsyncRun = Callable[..., Awaitable[Answer]]


def runner(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `callboard` with the arguments it is called with, and returns the exit code."""

    def run(*args: str) -> int:
        monkeypatch.setattr(sys, "argv", ["callboard", *args])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        return int(caught.value.code or 0)

    return run


def async_runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> AsyncRun:
    """The same in a thread, so that what the test's own loop serves can answer; returns all that a shell sees."""

    run_here = runner(monkeypatch)

    async def run(*args: str) -> Answer:
        code = await asyncio.to_thread(run_here, *args)
        out = capsys.readouterr()
        return code, out.out, out.err

    return run
