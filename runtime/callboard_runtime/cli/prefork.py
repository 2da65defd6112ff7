"""Goes on in several forks of this process, and stays behind as the parent that looks after them.

In:  SIGTERM or SIGINT, passed on once; ends of forks
Out: forks; the parent's exit code, when the last of them is gone

A fork that ends unasked is replaced, each time after a longer pause. The second signal kills what is left; so does, by
way of the kernel, the end of the parent.
"""

from __future__ import annotations

import itertools
import logging
import os
import select
import signal
import time
from collections.abc import Iterable

from callboard_runtime.embedded.launch import die_with
from callboard_runtime.errors import SettingsError

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a fork that ended is replaced
STEADY = 60.0  # seconds after which a fork's end says nothing about the next one's
WRONG_SETTINGS = 2  # the exit code of the command line; a replacement would end the same way

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


def fork(count: int) -> int:
    """Return in each of `count` children, with a number that no other one has or had; the parent never returns.

    Call it in the main thread, without other threads, with everything imported and nothing connected. The parent leaves
    by SystemExit: 0 after one signal, 1 after two, 2 when a child finds its settings wrong.
    """
    if not hasattr(os, "fork"):
        raise SettingsError("CALLBOARD_WORKER__PROCESSES needs a system that can fork: start several workers instead")
    return _Parent(count).look_after()


class _Parent:
    def __init__(self, count: int) -> None:
        self._due = [time.monotonic()] * count  # when the next forks are made, the earliest first
        self._living: dict[int, float] = {}  # since when, by process id
        self._numbers = itertools.count(1)
        self._pause = FIRST_PAUSE
        self._code: int | None = None  # set when it is time to leave
        self._post = _Post()

    def look_after(self) -> int:
        while self._living or self._due:
            told = self._post.wait(self._due[0] - time.monotonic() if self._due else None)
            for _ in range(len(told) - told.count(signal.SIGCHLD)):
                self._pass_on()
            self._bury()
            while self._due and self._due[0] <= time.monotonic():
                self._due.pop(0)
                number, pid = next(self._numbers), self._fork()
                if pid == 0:
                    return number
                self._living |= {pid: time.monotonic()} if pid else {}
        raise SystemExit(self._code)

    def _fork(self) -> int | None:
        """As os.fork, in a group of its own: Ctrl-C reaches the parent alone, which passes it on. None: not now."""
        parent = os.getpid()
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)  # else the child could answer into the parent's post
        try:
            if (pid := os.fork()) == 0:
                self._post.close()
                os.setpgid(0, 0)
                die_with(parent, signal.SIGKILL)
            return pid
        except OSError as error:
            return self._later(f"cannot fork: {error.strerror}")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _bury(self) -> None:
        for pid, code in _ended():
            since = self._living.pop(pid, None)  # None: an orphan, which a container's first process inherits
            if since is None or self._code is not None:
                continue
            if code == WRONG_SETTINGS:
                self._leave(WRONG_SETTINGS)
                continue
            if time.monotonic() - since >= STEADY:
                self._pause = FIRST_PAUSE
            self._later(f"process {pid} ended: {signal.Signals(-code).name if code < 0 else f'exit code {code}'}")

    def _later(self, why: str) -> None:
        logger.warning("%s; another one starts in %g s", why, self._pause, extra={"action": "worker_replaced"})
        self._due = sorted([*self._due, time.monotonic() + self._pause])
        self._pause = min(2 * self._pause, LONGEST_PAUSE)

    def _pass_on(self) -> None:
        if self._code is None:
            self._leave(0)
        else:
            logger.warning("told again: ending at once", extra={"action": "worker_killed"})
            self._code = self._code or 1
            self._send(signal.SIGKILL)

    def _leave(self, code: int) -> None:
        logger.info("waiting for %d processes to end", len(self._living), extra={"action": "worker_stopping"})
        self._code, self._due = code, []
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for pid in self._living:  # not waited for yet, so that none of these ids can be another process's by now
            os.kill(pid, number)


class _Post:
    """Signals as bytes in a pipe: they arrive in order, and wake a wait whichever thread they interrupt."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _noted) for number in _SIGNALS}

    def wait(self, timeout: float | None) -> bytes:
        """What came within so many seconds, or at all."""
        ready, _, _ = select.select([self._reader], [], [], None if timeout is None else max(0.0, timeout))
        return os.read(self._reader, 4096) if ready else b""

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)


def _noted(number: int, frame: object) -> None:
    """Python writes the number into the pipe because there is a handler at all."""


def _ended() -> Iterable[tuple[int, int]]:
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        yield pid, os.waitstatus_to_exitcode(status)
