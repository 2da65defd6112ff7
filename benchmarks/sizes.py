"""How much of everything: full for figures, quick to see that all of it works."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Sizes:
    """`chat` is the number of runs by how many are under way at once; `pace_ms` is the model's time per token."""

    chat: Mapping[int, int] = field(default_factory=lambda: {1: 30, 16: 640, 100: 800})
    pace_ms: tuple[int, ...] = (10, 0)
    tokens: int = 64
    hops: int = 48
    hops_at_once: int = 16
    sessions: int = 500  # of the actor's commit path
    commands: Mapping[int, int] = field(default_factory=lambda: {1: 300, 64: 4000, 500: 6000})
    readers: int = 500
    rounds: int = 60  # batches that every reader of the fan-out gets
    batch: int = 8  # events per batch
    idle: int = 1000
    crowd: int = 1000  # active readers of one front
    crowd_idle: int = 5000  # and idle ones beside them
    crowd_rounds: int = 20  # batches that each of the active ones gets
    storm: int = 2000
    scale_runs: int = 240
    scale_at_once: int = 64
    cold_starts: int = 3
    workers: int = 1


QUICK = Sizes(
    chat={1: 3, 8: 16},
    pace_ms=(10,),
    hops=16,
    hops_at_once=8,
    sessions=100,
    commands={1: 20, 16: 100},
    readers=30,
    rounds=10,
    idle=60,
    crowd=60,
    crowd_idle=100,
    storm=60,
    scale_runs=24,
    scale_at_once=8,
    cold_starts=1,
)
