"""What is loaded is left alone by the collector; what comes later is still collected."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc, weakref
from callboard_runtime.garbage import YOUNG, leave_loaded_alone

class Ring:
    def __init__(self):
        self.me = self

loaded = [Ring() for _ in range(1000)]
leave_loaded_alone()
assert gc.get_freeze_count() >= 1000, gc.get_freeze_count()
dead = weakref.ref(Ring())
more = [Ring() for _ in range(2 * YOUNG)]
assert dead() is None, "a ring that nobody holds is still there"
"""


def test_only_what_was_loaded_is_left_alone() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
