"""Python's garbage collector for processes that import a great deal once and then make small things quickly."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager

YOUNG = 10_000  # allocations between two looks at what is young; Python's 700 are a hundred looks a second
LOOKS = 20  # at what is young, until the older is looked at, too


@contextmanager
def nothing_collected() -> Generator[None]:
    """Collect nothing meanwhile, and never what is there at the end: what imports make is no garbage.

    Looking for garbage in it takes a fifth of the imports' time, and half a second whenever it is done again.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def leave_loaded_alone() -> None:
    """Let no later collection look at what is loaded by now: with CrewAI that takes most of a second, in one piece.

    Call it once, when everything is imported and warm.
    """
    gc.freeze()
    gc.set_threshold(YOUNG, LOOKS, LOOKS)
