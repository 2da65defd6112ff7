"""Where the services of a running `callboard up` are: noted in its data folder, for this user's other terminals."""

from __future__ import annotations

import fcntl
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from callboard_runtime.embedded.paths import data_dir_candidates, private_file

FILE = "services.json"


@dataclass(frozen=True, slots=True)
class RunningServices:
    """The URLs by setting; hidden in `repr`, because the passwords are in them."""

    pid: int
    urls: Mapping[str, str] = field(repr=False)


@contextmanager
def noted(folder: Path, urls: Mapping[str, str]) -> Generator[None]:
    """Keep a note that only this user can read, for as long as the services run."""
    private_file(folder / FILE, orjson.dumps(dict(urls)).decode())
    try:
        yield
    finally:
        (folder / FILE).unlink(missing_ok=True)


def running_services(chosen: Path | None) -> RunningServices | None:
    """Those of the folder that `callboard up` would use; None when nobody runs them."""
    return next((found for folder in data_dir_candidates(chosen) if (found := _in(folder))), None)


def _in(folder: Path) -> RunningServices | None:
    try:
        pid = _holder(folder / "lock")
        urls = orjson.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return None
    return RunningServices(pid, urls) if pid else None


def _holder(lock: Path) -> int | None:
    """The process that holds the lock: a note without one was left by a process that was killed."""
    with lock.open("r", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read().strip())
    return None
