"""Tools that note each start in a file of their own, and wait where a test lets them."""

import os
import time
from pathlib import Path


def press(label: str) -> str:
    """Note that the button was pressed; with a label `hold-…`, return only when the test says so."""
    folder = Path(os.environ["CALLBOARD_TEST_TOOLS"])
    with (folder / f"{label}.pressed").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while label.startswith("hold-") and not (folder / f"{label}.go").exists():
        time.sleep(0.02)
    return f"pressed {label}"
