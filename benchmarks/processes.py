"""Child processes: started with their log in a file, waited for, and ended with the benchmark."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from callboard_runtime.embedded.launch import launch_command
from callboard_runtime.embedded.paths import free_port

ROOT = Path(__file__).resolve().parents[1]
START = 180.0  # seconds
# The kernel ties a child to the thread that started it: this one lives as long as the benchmark.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="benchmark-spawner")


class Child:
    """One process; `ready` is asked until it is true."""

    def __init__(self, name: str, argv: Sequence[str], env: Mapping[str, str], log: Path) -> None:
        self.name, self.log = name, log
        self._argv = launch_command(argv, account=None, death_signal=signal.SIGKILL)
        self._env = {**_environment(), **env}
        self._process = _spawner.submit(self._spawn).result()

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, ready: Callable[[], bool]) -> None:
        """Raises RuntimeError with the end of its log when it does not come up."""
        deadline = time.monotonic() + START
        while not ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} did not start:\n{self.log.read_text(errors='replace')[-3000:]}")
            time.sleep(0.05)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL after a while."""
        self._process.terminate()
        try:
            self._process.wait(45)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self._argv, env=self._env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV") if name in os.environ}
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "CREWAI_DISABLE_TELEMETRY": "true", "OTEL_SDK_DISABLED": "true"}
    return {**kept, **quiet, "LC_ALL": "C.UTF-8", "CALLBOARD_ENV_FILE": "", "PYTHONUNBUFFERED": "1"}


def program(name: str, folder: Path, *arguments: str, python: str = sys.executable) -> tuple[Child, str]:
    """Start `benchmarks.programs.<name>` on a free port and wait until it answers; returns it and its address."""
    port = free_port()
    argv = [python, "-m", f"benchmarks.programs.{name}", str(port), *arguments]
    child = Child(name, argv, {}, folder / f"{name}.log")
    url = f"http://127.0.0.1:{port}"
    child.wait_ready(lambda: answers(f"{url}/healthz"))
    return child, url


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
