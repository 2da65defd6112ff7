"""One server process of the test session: start, stop, kill, freeze, restart; it never outlives pytest."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil

from callboard_runtime.embedded.launch import launch_command
from waiting import wait_until

# The kernel ties a child to the thread that started it, so all children come from this one, which ends with pytest.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="service-spawner")
_PREFIX = "callboard-tests-"


class ServiceUnavailable(Exception):
    """The service cannot be had on this machine; the text says in one line how to get it."""


def session_folder() -> Path:
    """A folder for this session's data, which other accounts may enter; leftovers of killed sessions are removed."""
    for old in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        pid = old.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


class ServiceProcess(ABC):
    """A server that a test may stop, kill and freeze. The address stays the same over restarts."""

    name = "service"
    start_timeout = 60.0
    death_signal = signal.SIGKILL
    stop_signal = signal.SIGTERM
    account: tuple[int, int] | None = None

    def __init__(self, folder: Path) -> None:
        """Keep the data and the log of this server in `folder`, which is created."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.log = folder / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._paused = False

    @abstractmethod
    def command(self) -> Sequence[str]: ...

    def environment(self) -> Mapping[str, str]:
        return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8"}

    @abstractmethod
    def ready(self) -> bool: ...

    @property
    def pid(self) -> int:
        """The server's process id. Raises RuntimeError when it is not running."""
        if not self.running:
            raise RuntimeError(f"{self.name} is not running")
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Raises RuntimeError with the end of its log when it does not."""
        if self.running:
            return
        self._process = _spawner.submit(self._spawn).result()
        try:
            wait_until(self._ready_or_dead, f"start of {self.name}", timeout=self.start_timeout)
        except TimeoutError:
            self.kill()
            raise RuntimeError(f"{self.name} did not start:\n{self.log_tail()}") from None
        if not self.running:
            raise RuntimeError(f"{self.name} ended while starting:\n{self.log_tail()}")

    def stop(self) -> None:
        """Shut down in the orderly way; kill after 20 s."""
        if self._process is None or not self.running:
            return
        self.resume()
        self._process.send_signal(self.stop_signal)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """SIGKILL the server and all its children at once, as a power cut would."""
        gone = self._signal_tree(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(20)
        wait_until(lambda: all(map(_ended, gone)), f"end of the children of {self.name}", timeout=20)

    def restart(self) -> None:
        self.stop()
        self.start()

    def pause(self) -> None:
        """Freeze the server and its children: connections stay open and silent."""
        self._paused = True
        self._signal_tree(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_tree(signal.SIGCONT)
        self._paused = False

    def ensure_running(self) -> None:
        """Make the server whole again after whatever a test did to it."""
        self.resume()
        self.start()

    def log_tail(self, lines: int = 30) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"

    def _spawn(self) -> subprocess.Popen[bytes]:
        argv = launch_command(self.command(), account=self.account, death_signal=self.death_signal)
        with self.log.open("ab") as log:
            return subprocess.Popen(
                argv, env=self.environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _ready_or_dead(self) -> bool:
        return not self.running or self.ready()

    def _signal_tree(self, number: signal.Signals) -> list[psutil.Process]:
        if not self.running:
            return []
        root = psutil.Process(self.pid)
        children = root.children(recursive=True)
        for process in [root, *children]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)
        return children


def _ended(process: psutil.Process) -> bool:
    # A container's first process may never reap orphans: a zombie counts as ended.
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
