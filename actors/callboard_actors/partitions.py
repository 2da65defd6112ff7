"""Which process should hold which partition: rendezvous hashing, so that who comes or goes moves only its share."""

from __future__ import annotations

from collections.abc import Set
from functools import lru_cache
from hashlib import blake2b

from callboard_runtime.domain.ids import PARTITIONS

LONGEST_WAIT = 60.0  # seconds between two tries to hand the same partition over

Assignment = tuple[str | None, ...]
"""The favourite process of every partition; None where no process lives."""


def favourite(partition: int, processes: Set[str]) -> str | None:
    """The process that ranks highest for this partition; every process computes the same one."""
    return max(processes, key=lambda process: _rank(partition, process), default=None)


@lru_cache(maxsize=8)
def assign(processes: frozenset[str]) -> Assignment:
    """The favourites of all partitions among the living processes."""
    return tuple(favourite(partition, processes) for partition in range(PARTITIONS))


def _rank(partition: int, process: str) -> tuple[bytes, str]:
    return blake2b(f"{partition}/{process}".encode(), digest_size=8).digest(), process


class Handovers:
    """When this process gives up partitions that another living one should hold.

    The broker passes a partition to whoever waits longest, so everybody but the favourite leaves and queues up again:
    after `patience` seconds, in which a newcomer joins; again, ever more seldom, as long as commands still arrive here.
    """

    def __init__(self, process: str, patience: float) -> None:
        self._process, self._patience = process, patience
        self._favourites: Assignment = ()
        self._at: dict[int, float] = {}
        self._waits: dict[int, float] = {}

    def due(self, members: Set[str], owned: Set[int], now: float) -> list[int]:
        """Follow the membership; the partitions to leave and rejoin now. `now` is any clock in seconds."""
        before, self._favourites = self._favourites, assign(frozenset(members) | {self._process})
        for partition, process in enumerate(self._favourites):
            if process == self._process:
                self._at.pop(partition, None)
                self._waits.pop(partition, None)
            elif before and before[partition] != process:
                self._plan(partition, now, self._patience)
            elif partition in owned and partition not in self._at:
                self._plan(partition, now, min(LONGEST_WAIT, self._waits.get(partition, self._patience / 2) * 2))
        return self._ready(now)

    def _plan(self, partition: int, now: float, wait: float) -> None:
        self._waits[partition] = wait
        self._at[partition] = now + wait

    def _ready(self, now: float) -> list[int]:
        ready = [partition for partition, at in self._at.items() if at <= now]
        for partition in ready:
            del self._at[partition]
        return ready
