"""Real Callboard processes for tests: start, kill, freeze and restart them, wait for them, and read their logs.

with Callboard(urls, folder, zygote, settings) as callboard:
    callboard.start(http=2, actors=2, worker=1)
    async with callboard.client("alice") as alice: ...
"""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import asyncpg

from callboard_runtime.embedded.launch import launch_command
from callboard_runtime.embedded.paths import free_port
from callboard_runtime.persistence.database import driver_arguments
from canaries import PROVIDER_KEY
from front_client import JWT_SECRET, FrontClient, Json
from waiting import wait_until

KINDS = ("actors", "worker", "http")
START_TIMEOUT = 90.0  # seconds; the machine may be busy
_TESTS = Path(__file__).parent
# The kernel ties a child to the thread that started it, so the zygote comes from one that ends with pytest.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="zygote-spawner")


@dataclass(frozen=True)
class Urls:
    """The services that a stack runs on."""

    database: str
    amqp: str
    redis: str

    def environment(self) -> dict[str, str]:
        named = {"DATABASE": self.database, "AMQP": self.amqp, "REDIS": self.redis}
        return {f"CALLBOARD_{name}_URL": url for name, url in named.items()}


class Zygote:
    """The process that forks Callboard processes (see `tests/zygote.py`); it starts in the background.

    `checkout` is the folder of another release, whose code the processes then run.
    """

    def __init__(self, folder: Path, checkout: Path | None = None) -> None:
        self._checkout = checkout
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._log = folder / "zygote.log"
        self._process = _spawner.submit(self._spawn, theirs.fileno()).result()
        theirs.close()
        self._ready = False
        self._one_at_a_time = threading.Lock()

    def _spawn(self, descriptor: int) -> "subprocess.Popen[bytes]":
        argv = launch_command(
            [sys.executable, str(self._tests / "zygote.py"), str(descriptor)], account=None, death_signal=signal.SIGKILL
        )
        with self._log.open("ab") as log:
            return subprocess.Popen(
                argv, env=self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=[descriptor]
            )

    @property
    def _tests(self) -> Path:
        return self._checkout / "tests" if self._checkout else _TESTS

    def _environment(self) -> dict[str, str]:
        if self._checkout is None:
            return _environment()
        roots = [str(self._checkout / name) for name in ("runtime", "actors", "http")]
        return _environment() | {"PYTHONPATH": os.pathsep.join(roots)}

    def start(self, argv: Sequence[str], env: Mapping[str, str], log: Path) -> int:
        """Fork a process that runs this `callboard` command, and return its id."""
        return self._ask({"start": list(argv), "env": dict(env), "log": str(log)})["pid"]

    def code(self, pid: int) -> int | None:
        """The exit code of a process (negative: the signal), None while it runs."""
        return self._ask({"code": pid})["code"]

    def stop(self) -> None:
        """End the zygote; what it forked ends with it."""
        self._channel.close()
        self._process.kill()
        self._process.wait(20)

    def _ask(self, request: Json) -> Json:
        with self._one_at_a_time:
            self._channel.settimeout(START_TIMEOUT)
            if not self._ready:
                self._receive()
                self._ready = True
            self._channel.send(json.dumps(request).encode())
            return self._receive()

    def _receive(self) -> Json:
        if answer := self._channel.recv(65536):
            return json.loads(answer)
        raise RuntimeError(f"the zygote ended:\n{self._log.read_text()[-4000:]}")


def _environment() -> dict[str, str]:
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "VIRTUAL_ENV", "PYTHONPATH") if name in os.environ
    }
    return {**kept, "LC_ALL": "C.UTF-8", "CALLBOARD_ENV_FILE": "", "PYTHONUNBUFFERED": "1"}


@dataclass
class Node:
    """One Callboard process."""

    kind: str
    pid: int
    log: Path
    zygote: Zygote
    url: str = ""  # fronts only
    paused: bool = field(default=False, init=False)
    leaving: bool = field(default=False, init=False)  # it was told to stop

    @property
    def alive(self) -> bool:
        return self.zygote.code(self.pid) is None

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        wait_until(lambda: not self.alive, f"death of {self.kind}", timeout=20)

    def stop(self, timeout: float = 60) -> int:
        """SIGTERM; returns the exit code."""
        self.resume()
        self.leaving = True
        self._signal(signal.SIGTERM)
        wait_until(lambda: not self.alive, f"end of {self.kind} after SIGTERM", timeout=timeout)
        return self.zygote.code(self.pid) or 0

    def pause(self) -> None:
        """Freeze the process: its connections stay open and silent."""
        self._signal(signal.SIGSTOP)
        self.paused = True

    def resume(self) -> None:
        if self.paused:
            self._signal(signal.SIGCONT)
            self.paused = False

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def log_tail(self, lines: int = 30) -> str:
        with contextlib.suppress(FileNotFoundError):
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        return "(no log)"


class Callboard:
    """Any number of fronts, actors and workers on given services. `settings` are environment variables."""

    def __init__(self, urls: Urls, folder: Path, zygote: Zygote, settings: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.urls, self.folder, self._zygote = urls, folder, zygote
        self.ledger_file = folder / "ledger.jsonl"
        self.nodes: list[Node] = []
        self.settings = dict(settings or {})
        self._marks: dict[Path, int] = {}
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_all()

    def change_release(self, zygote: Zygote) -> None:
        """Let processes that start from here on come from another release."""
        self._zygote = zygote

    @property
    def environment(self) -> dict[str, str]:
        return {
            **self.urls.environment(),
            "CALLBOARD_REDIS_PREFIX": f"cbtest:{self.folder.name}",
            "CALLBOARD_AUTH__JWT_SECRET": JWT_SECRET,
            "CALLBOARD_LLM__PROVIDER_KEYS__CANARY": PROVIDER_KEY,  # looked for in whatever is written
            "CALLBOARD_LLM__DEFAULT_MODEL": "scripted",
            "CALLBOARD_LLM__LEDGER": str(self.ledger_file),
            "CALLBOARD_HTTP__RUNS_PER_MINUTE": "1000000",
            "CALLBOARD_HTTP__MAX_STREAMS_PER_USER": "1000",
            "CALLBOARD_DATABASE_POOL": "8",
            "CALLBOARD_WORKER__HEARTBEAT": "0.5",
            **self.settings,
        }

    def of(self, kind: str) -> list[Node]:
        """The living processes of a kind, oldest first."""
        return [node for node in self.nodes if node.kind == kind and node.alive]

    @property
    def fronts(self) -> list[str]:
        return [node.url for node in self.of("http")]

    def client(self, user: str, **claims: Any) -> FrontClient:
        return FrontClient(lambda: self.fronts, user, **claims)

    def ensure(self, **counts: int) -> None:
        """Have exactly so many processes of each kind, all of them ready; spare ones are killed."""
        for node in self.nodes:
            node.resume()
        leaving = [node for node in self.nodes if node.leaving]
        wait_until(lambda: not any(node.alive for node in leaving), "end of what is stopping", timeout=START_TIMEOUT)
        self.nodes = [node for node in self.nodes if node.alive]
        for kind in KINDS:
            if kind in counts:
                self._ensure(kind, counts[kind])
        for node in self.nodes:
            self._wait_ready(node)

    def _ensure(self, kind: str, count: int) -> None:
        there = self.of(kind)
        for node in there[count:]:
            node.kill()
            self.nodes.remove(node)
        for _ in range(count - len(there)):
            self.spawn(kind)

    def start(self, kind: str) -> Node:
        """Start one more process and wait until it is ready."""
        node = self.spawn(kind)
        self._wait_ready(node)
        return node

    def spawn(self, kind: str) -> Node:
        """Start one more process, without waiting for it."""
        log = self.folder / f"{kind}-{next(self._numbers)}.log"
        options: dict[str, str] = {}
        url = ""
        if kind == "http":
            port = free_port()
            options, url = {"CALLBOARD_HTTP__PORT": str(port)}, f"http://127.0.0.1:{port}"
        pid = self._zygote.start(["callboard", kind], {**self.environment, **options}, log)
        node = Node(kind, pid, log, self._zygote, url)
        self.nodes.append(node)
        return node

    def kill_all(self) -> None:
        for node in self.nodes:
            node.kill()
        self.nodes = []

    def _wait_ready(self, node: Node) -> None:
        try:
            wait_until(lambda: not node.alive or self._ready(node), f"start of {node.kind}", timeout=START_TIMEOUT)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{node.log_tail()}") from None
        if not node.alive:
            raise RuntimeError(f"callboard {node.kind} ended while starting:\n{node.log_tail()}")

    def _ready(self, node: Node) -> bool:
        if node.kind == "http":
            return _answers(f"{node.url}/readyz")
        if node.kind == "actors":  # it is known as alive before it takes commands
            return node.log.exists() and "partitions_joined" in node.log.read_text(errors="replace")
        return any(str(node.pid) in row["id"] for row in self.query_now("SELECT id FROM processes"))

    # -- what the services hold ---------------------------------------------------------------------------------------

    async def query(self, statement: str, *arguments: object) -> list[Json]:
        """Rows of the database."""
        connection = await asyncpg.connect(**driver_arguments(self.urls.database))
        try:
            return [dict(row) for row in await connection.fetch(statement, *arguments)]
        finally:
            await connection.close()

    def query_now(self, statement: str) -> list[Json]:
        """The same, blocking; from any thread, also inside an event loop."""
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, self.query(statement)).result()

    def ledger(self) -> list[Json]:
        """The requests that the scripted model served."""
        if not self.ledger_file.exists():
            return []
        return [json.loads(line) for line in self.ledger_file.read_text().splitlines()]

    def mark(self) -> None:
        """Let `logs` begin here."""
        self._marks = {file: file.stat().st_size for file in self.folder.glob("*.log")}

    def logs(self) -> str:
        """What was logged since the mark, at most the end of it, for the report of a failed test."""
        written = {file: file.read_bytes()[self._marks.get(file, 0) :] for file in sorted(self.folder.glob("*.log"))}
        return "\n".join(
            f"--- {file.name}\n{text[-4000:].decode(errors='replace')}" for file, text in written.items() if text
        )


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, OSError):
        return False
