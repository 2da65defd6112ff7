"""A parent and its forks, as a program of a few lines that imports next to nothing."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from waiting import wait_until

pytestmark = [pytest.mark.timeout(60), pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")]

PROGRAM = """
import logging, os, random, signal, sys, time
logging.basicConfig(level=logging.INFO, format="%(message)s")
from callboard_runtime.cli import prefork
random.random()
number = prefork.fork(2)
SETUP
print(f"child {number} {os.getpid()} {random.random()}", flush=True)
while True:
    time.sleep(60)
"""
DRAINS = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))"
STUBBORN = "signal.signal(signal.SIGTERM, lambda *_: print('stays', flush=True))"


class Program:
    def __init__(self, process: "subprocess.Popen[bytes]", log: Path) -> None:
        self.process, self._log = process, log

    @property
    def said(self) -> str:
        return self._log.read_text()

    @property
    def born(self) -> list[tuple[int, int]]:
        """Number and process id of each child so far."""
        return [(int(number), int(pid)) for number, pid in re.findall(r"^child (\d+) (\d+) ", self.said, re.MULTILINE)]

    def until_born(self, count: int) -> list[tuple[int, int]]:
        wait_until(lambda: len(self.born) >= count, f"{count} children", timeout=30)
        return self.born


@contextmanager
def running(folder: Path, child: str) -> Generator[Program]:
    log = folder / "log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.replace("SETUP", child)],
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
    try:
        yield Program(process, log)
    finally:
        process.kill()
        process.wait()


def gone(pids: list[int]) -> bool:
    return not any(psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE for pid in pids)


def test_children_differ_and_end_with_the_first_sigterm(tmp_path: Path) -> None:
    with running(tmp_path, DRAINS) as program:
        born = program.until_born(2)
        assert {number for number, _ in born} == {1, 2}
        assert len(set(re.findall(r"^child \d+ \d+ (\S+)$", program.said, re.MULTILINE))) == 2  # random by themselves
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(30) == 0
        assert gone([pid for _, pid in born])


def test_a_child_that_ends_is_replaced_under_a_number_of_its_own(tmp_path: Path) -> None:
    with running(tmp_path, DRAINS) as program:
        (_, victim), (_, other) = program.until_born(2)
        os.kill(victim, signal.SIGKILL)
        born = program.until_born(3)
        assert born[2][0] == 3
        assert not gone([other])
        assert f"process {victim} ended: SIGKILL; another one starts in 0.5 s" in program.said


def test_children_that_keep_ending_are_replaced_ever_more_slowly(tmp_path: Path) -> None:
    with running(tmp_path, "sys.exit(3)") as program:
        wait_until(lambda: program.said.count("another one starts") >= 4, "four ends", timeout=30)
        pauses = [float(each) for each in re.findall(r"exit code 3; another one starts in (\S+) s", program.said)]
        assert pauses[:4] == [0.5, 1, 2, 4]


def test_the_second_signal_kills(tmp_path: Path) -> None:
    with running(tmp_path, STUBBORN) as program:
        born = program.until_born(2)
        # Ctrl-C at a terminal reaches whole groups: the children must hear of it once, from their parent.
        assert all(os.getpgid(pid) == pid for _, pid in born)
        program.process.send_signal(signal.SIGINT)
        wait_until(lambda: program.said.count("stays") == 2, "the first signal, passed on", timeout=30)
        program.process.send_signal(signal.SIGINT)
        assert program.process.wait(30) == 1
        assert gone([pid for _, pid in born])


def test_wrong_settings_end_all_of_them(tmp_path: Path) -> None:
    with running(tmp_path, f"{DRAINS}\nif number == 1: sys.exit(2)") as program:
        assert program.process.wait(30) == 2
        assert "another one" not in program.said


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's end")
def test_children_end_with_their_parent(tmp_path: Path) -> None:
    with running(tmp_path, STUBBORN) as program:
        born = program.until_born(2)
        program.process.kill()
        program.process.wait()
        wait_until(lambda: gone([pid for _, pid in born]), "the end of orphans", timeout=30)
