"""Figures out of samples."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import ceil

from callboard_runtime.load.samples import Sample
from callboard_runtime.load.tester import Outcome

MARKS = {
    "accepted": "accepted (202)",
    "started": "run started",
    "step": "first step",
    "token": "first token (TTFT)",
    "ended": "run ended",
}


@dataclass(frozen=True, slots=True)
class Spread:
    """Seconds; `count` says of how many."""

    count: int
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True, slots=True)
class Summary:
    """A test in figures; `spreads` is by the name of a mark, and leaves out what never happened."""

    runs: int
    succeeded: int
    runs_per_second: float  # that succeeded
    elapsed: float
    spreads: dict[str, Spread]
    errors: dict[str, int]  # by code
    events: int
    events_per_second: float
    reconnects: int
    legs: int
    missed: int
    verified_sessions: int
    faults: tuple[str, ...]


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank, of values in ascending order; there must be one."""
    return ordered[max(0, ceil(share * len(ordered)) - 1)]


def spread(values: Iterable[float]) -> Spread | None:
    """None of no values."""
    ordered = sorted(values)
    if not ordered:
        return None
    p50, p95, p99 = (percentile(ordered, share) for share in (0.5, 0.95, 0.99))
    return Spread(len(ordered), p50, p95, p99, ordered[-1])


def mark_values(samples: Iterable[Sample], mark: str) -> list[float]:
    """The times of one mark, of the runs that got there and did not fail."""
    found = (getattr(sample.marks, mark) for sample in samples if sample.error is None)
    return [value for value in found if value is not None]


def summarise(outcome: Outcome) -> Summary:
    samples, elapsed = outcome.samples, max(outcome.elapsed, 1e-9)
    spreads = {mark: spread(mark_values(samples, mark)) for mark in MARKS}
    succeeded = sum(1 for sample in samples if sample.error is None)
    events = sum(sample.events for sample in samples)
    faults = (*(f"run {s.run_id}: {fault}" for s in samples for fault in s.faults), *outcome.faults)
    return Summary(
        runs=len(samples),
        succeeded=succeeded,
        runs_per_second=succeeded / elapsed,
        elapsed=outcome.elapsed,
        spreads={mark: found for mark, found in spreads.items() if found},
        errors=dict(Counter(sample.error for sample in samples if sample.error).most_common()),
        events=events,
        events_per_second=events / elapsed,
        reconnects=sum(sample.connections - sample.legs for sample in samples if sample.connections),
        legs=sum(sample.legs for sample in samples),
        missed=outcome.missed,
        verified_sessions=outcome.verified,
        faults=faults,
    )
