"""Child processes: started, watched, restarted with back-off, and stopped in reverse order.

In: `ChildSpec`, one per process.
Out: processes that answer, until the supervisor is left; `failed()` when one gives up.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from callboard_runtime.embedded.errors import ChildFailed
from callboard_runtime.embedded.launch import launch_command

logger = logging.getLogger(__name__)

_FIRST_POLL, _MOST_POLL = 0.02, 0.25  # seconds between readiness probes
_LOG_TAIL = 20  # lines
_LOG_TAIL_BYTES = 64 * 1024


async def _at_once(_pid: int) -> bool:
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """How to run one child.

    `environment` None inherits ours. `log` receives stdout and stderr; None leaves them on the terminal.
    `ready` gets the process id and is asked until it says yes. `advice` tells the user what to do when it never does.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] | None = None
    log: Path | None = None
    account: tuple[int, int] | None = None
    ready: Callable[[int], Awaitable[bool]] = _at_once
    ready_timeout: float = 60.0  # seconds
    stop_signal: signal.Signals = signal.SIGTERM
    stop_timeout: float = 10.0  # seconds until SIGKILL
    death_signal: signal.Signals = signal.SIGKILL
    # Bad usage, bad configuration, cannot be executed: trying again would only repeat the message.
    hopeless_codes: frozenset[int] = frozenset({2, os.EX_CONFIG, 126})
    advice: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """Waits of `first`, then doubling up to `most` seconds, until `attempts` starts in a row came to nothing.

    A child that held out `stable` seconds begins anew.
    """

    first: float = 0.25
    most: float = 15.0
    stable: float = 30.0
    attempts: int = 6

    def delay(self, failures: int) -> float:
        """Seconds to wait before the start that follows `failures` ends in a row."""
        return min(self.most, self.first * 2 ** max(0, failures - 1))


class _Ended(Exception):
    """One start of a child came to nothing, or it ended later."""

    def __init__(self, text: str, code: int | None) -> None:
        self.code = code
        super().__init__(text)


class Child:
    """One process under supervision. Start it once; it comes back by itself until `stop()`."""

    def __init__(self, spec: ChildSpec, policy: RestartPolicy) -> None:
        self.spec = spec
        self.restarts = 0
        self._policy = policy
        self._process: asyncio.subprocess.Process | None = None
        self._log_start = 0
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def pid(self) -> int | None:
        """The process id, None while the child is down."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    async def start(self) -> None:
        """Start and wait until it is ready. Raises ChildFailed after the policy's attempts."""
        await self._persist(None, failures=0)
        self._watch = asyncio.create_task(self._keep_running(), name=f"supervise-{self.spec.name}")

    async def stop(self) -> None:
        """End it with its stop signal, then SIGKILL; returns when it is gone."""
        self._stopping = True
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await self._end_process()

    async def failed(self) -> None:
        """Wait for the child to give up; raises ChildFailed then, and only returns after `stop()`."""
        if self._watch is not None:
            await asyncio.wait([self._watch])
            if not self._watch.cancelled():
                self._watch.result()

    async def _persist(self, ended: _Ended | None, failures: int) -> int:
        """Start until it is ready, with back-off after each end; how many ends in a row there were by then."""
        while True:
            if ended is not None:
                failures += 1
                await self._back_off(ended, failures)
            try:
                await self._start_once()
            except _Ended as again:
                ended = again
            else:
                return failures

    async def _back_off(self, ended: _Ended, failures: int) -> None:
        if failures >= self._policy.attempts or ended.code in self.spec.hopeless_codes:
            raise ChildFailed("\n".join(filter(None, (str(ended), self.spec.advice)))) from ended
        delay = self._policy.delay(failures)
        logger.error("starting again in %.2g s: %s", delay, ended, extra={"action": "child_restarted"})
        await asyncio.sleep(delay)

    async def _start_once(self) -> None:
        process = await self._spawn()
        try:
            async with asyncio.timeout(self.spec.ready_timeout):
                await self._until_ready(process)
        except TimeoutError:
            await self._end_process()
            raise self._ended(f"did not answer within {self.spec.ready_timeout:g} s") from None

    async def _spawn(self) -> asyncio.subprocess.Process:
        spec = self.spec
        argv = launch_command(spec.command, account=spec.account, death_signal=spec.death_signal)
        # A session of its own: Ctrl-C in the terminal reaches the supervisor alone, which stops the rest in order.
        with contextlib.ExitStack() as stack:
            output = None if spec.log is None else stack.enter_context(spec.log.open("ab"))
            self._log_start = 0 if output is None else output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                env=spec.environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        return self._process

    async def _until_ready(self, process: asyncio.subprocess.Process) -> None:
        poll = _FIRST_POLL
        while process.returncode is None:
            if await self.spec.ready(process.pid):
                return
            await asyncio.sleep(poll)
            poll = min(poll * 1.5, _MOST_POLL)
        raise self._ended(f"ended with {_outcome(process.returncode)} while starting", process.returncode)

    async def _keep_running(self) -> None:
        failures = 0
        while process := self._process:
            began = asyncio.get_running_loop().time()
            code = await process.wait()
            if asyncio.get_running_loop().time() - began >= self._policy.stable:
                failures = 0
            failures = await self._persist(self._ended(f"ended with {_outcome(code)}", code), failures)
            self.restarts += 1
            logger.info("%s runs again", self.spec.name, extra={"action": "child_recovered"})

    async def _end_process(self) -> None:
        process = self._process
        if process is None or process.returncode is not None:
            return
        _send(process, self.spec.stop_signal)
        try:
            async with asyncio.timeout(self.spec.stop_timeout):
                await process.wait()
        except TimeoutError:
            logger.warning("%s did not stop; killing it", self.spec.name, extra={"action": "child_killed"})
            _send(process, signal.SIGKILL)
            await process.wait()

    def _ended(self, what: str, code: int | None = None) -> _Ended:
        tail = self.log_tail()
        return _Ended(f"{self.spec.name} {what}" + (f"; its log {self.spec.log} ends:\n{tail}" if tail else ""), code)

    def log_tail(self) -> str:
        """The last lines that the child wrote since its latest start; empty when it writes to the terminal."""
        if self.spec.log is None or not self.spec.log.exists():
            return ""
        with self.spec.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _LOG_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_LOG_TAIL:])


class Supervisor:
    """Runs children and stops them in reverse order of their start when it is left.

    Enter it in the main thread: on Linux a child dies with the thread that started it.
    """

    def __init__(self, policy: RestartPolicy | None = None) -> None:
        self._policy = policy or RestartPolicy()
        self._children: list[Child] = []

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def children(self) -> tuple[Child, ...]:
        return tuple(self._children)

    async def start(self, *specs: ChildSpec) -> tuple[Child, ...]:
        """Start these together and wait until all are ready. Raises ChildFailed of the first that is not."""
        started = tuple(Child(spec, self._policy) for spec in specs)
        self._children.extend(started)
        starting = [asyncio.create_task(child.start()) for child in started]
        try:
            await asyncio.gather(*starting)
        except BaseException:
            for task in starting:
                task.cancel()
            await asyncio.gather(*starting, return_exceptions=True)
            raise
        return started

    async def failed(self) -> None:
        """Wait until a child gives up; raises its ChildFailed. Returns when all were stopped."""
        waiting = [asyncio.create_task(child.failed()) for child in self._children]
        if not waiting:
            return
        try:
            await asyncio.gather(*waiting)
        finally:
            for task in waiting:
                task.cancel()

    async def stop(self, *children: Child) -> None:
        """Stop these children, or all, the last started first; each waits for the one before it to be gone."""
        for child in reversed(children or tuple(self._children)):
            await child.stop()
            self._children.remove(child)


def python_command(*arguments: str) -> list[str]:
    """The argv that runs this same interpreter, such as `python_command("-m", "callboard_runtime.cli", "http")`."""
    return [sys.executable, *arguments]


def _outcome(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return f"signal {-code}"


def _send(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)
