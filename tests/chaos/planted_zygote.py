"""The tests' zygote, whose children carry the bug that CALLBOARD_TEST_PLANT names. Never part of what is shipped."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import zygote

_become = zygote._become


def _become_with_a_bug(request: "dict[str, object]", parent: int) -> None:
    _become(request, parent)
    if name := os.environ.get("CALLBOARD_TEST_PLANT"):
        from chaos import plants

        plants.apply(name)


zygote._become = _become_with_a_bug

if __name__ == "__main__":
    zygote.main()
