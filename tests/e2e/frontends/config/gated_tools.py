"""A backend tool that takes as long as the page of a test wants."""

import time
from pathlib import Path


def archive(gate: str, words: str) -> str:
    """Wait for the file `gate`."""
    while not Path(gate).exists():
        time.sleep(0.02)
    return f"{len(words)} characters put away"
