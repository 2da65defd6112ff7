"""Named points of a worker at which a fault test may have it killed; they do nothing unless CALLBOARD_FAULTS is set."""

from __future__ import annotations

import os
import signal
from functools import cache
from pathlib import Path

POINTS = (
    "before_model_request",  # its step is begun and committed, the provider is not asked yet
    "after_model_answer",  # the answer is whole, its record is not sent
    "model_record_held",  # the record waits for the next command to take it along
    "before_tool",  # its step is begun and committed, the function is not called yet
    "inside_tool",  # for tools of tests: between the side effect and the return
    "after_tool",  # the function has returned, its record is not sent
    "after_tool_record",
    "during_replay",  # a recorded model answer was found
    "before_end",  # of an attempt: FinishRun, RequestTools or ReleaseRun is not sent
    "after_end",
)


def fault_point(name: str) -> None:
    """Kill this process if the folder that CALLBOARD_FAULTS names has a file of this name, which is used up by it.

    A number in the file says at which passage; the first one if it is empty.
    """
    folder = _folder()
    if folder is not None:
        _pass(folder / name)


@cache
def _folder() -> Path | None:
    """Not read at import: a process that forks workers imports before it knows their environment."""
    named = os.environ.get("CALLBOARD_FAULTS")
    return Path(named) if named else None


def _pass(armed: Path) -> None:
    try:
        left = int(armed.read_text() or 1)
    except FileNotFoundError:
        return
    if left > 1:
        armed.write_text(str(left - 1))
        return
    armed.unlink()
    os.kill(os.getpid(), signal.SIGKILL)
