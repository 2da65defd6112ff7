"""A tool that notes each start in a ledger of its own: one line per start, on disk before it does anything else."""

import os
import random
import time
from pathlib import Path


def press(label: str) -> str:
    """Press the button of this label."""
    with (Path(os.environ["CALLBOARD_TEST_TOOLS"]) / "presses").open("a") as ledger:
        ledger.write(f"{label}\n")
    time.sleep(random.random())  # a process may die behind the effect, before anybody hears of it
    return f"pressed {label}"
