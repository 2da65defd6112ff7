"""Processor time and memory of groups of processes, children included."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import psutil

Groups = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Usage:
    """`cpu` in seconds since the processes began; `memory` in bytes, shared pages divided among their users."""

    cpu: float
    memory: int


def read(groups: Groups) -> dict[str, Usage]:
    """What each group has used; processes that have ended count as far as their parent was told."""
    return {name: _group(pids) for name, pids in groups.items()}


def cpu_since(groups: Groups, before: Mapping[str, Usage]) -> dict[str, float]:
    """Seconds of processor time per group since an earlier `read`."""
    return {name: usage.cpu - before[name].cpu for name, usage in read(groups).items()}


def megabytes(groups: Groups) -> dict[str, float]:
    return {name: usage.memory / 2**20 for name, usage in read(groups).items()}


def _group(pids: Sequence[int]) -> Usage:
    cpu, memory = 0.0, 0
    for process in _trees(pids):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            times = process.cpu_times()
            cpu += times.user + times.system + times.children_user + times.children_system
            memory += _memory(process)
    return Usage(cpu, memory)


def _trees(pids: Sequence[int]) -> Iterator[psutil.Process]:
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            yield from [root, *root.children(recursive=True)]


def _memory(process: psutil.Process) -> int:
    try:
        return process.memory_full_info().pss
    except (psutil.AccessDenied, AttributeError):  # another account's, or not on Linux
        return process.memory_info().rss
