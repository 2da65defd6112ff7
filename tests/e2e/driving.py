"""A real Chromium that plays scenarios, driven by Node."""

import asyncio
import json
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from front_client import Json
from services import install

HERE = Path(__file__).parent

Mark = Callable[[], Awaitable[None]]


def find_chromium() -> str:
    """The browser's path; in CI it is installed if need be."""
    if shutil.which("node") is None or not (HERE / "node_modules" / "playwright-core").is_dir():
        (pytest.fail if os.environ.get("CI") else pytest.skip)("node packages are missing: run scripts/e2e_setup")
    path = shutil.which("chromium")
    if path is None and os.environ.get("CI") == "true" and install.packages("chromium", "fonts-dejavu-core"):
        path = shutil.which("chromium")
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Chromium is missing: apt-get install chromium")
    return path


class Driver:
    """Node with a browser, for all scenarios of this session."""

    def __init__(self, chromium: str, scenarios: str) -> None:
        """`scenarios` is the name of a module of this folder."""
        self._process = subprocess.Popen(
            ["node", "drive_browser.mjs", chromium, scenarios],
            cwd=HERE,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    async def play(self, about: Json, marks: dict[str, Mark]) -> Json:
        """What the scenario reports; at each of its marks, the function of that name runs first."""
        self._say(about)
        while "mark" in (told := await asyncio.to_thread(self._hear)):
            await marks[told["mark"]]()
            self._say({})
        assert "error" not in told, f"{told['error']}\n{told['problems']}"
        return told

    def close(self) -> None:
        self._process.communicate(timeout=30)

    def _say(self, message: Json) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> Json:
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        if line := self._process.stdout.readline():
            return json.loads(line)
        raise RuntimeError(f"the browser's driver ended:\n{self._process.stderr.read()}")
