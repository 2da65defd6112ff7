"""Seeded schedules of a whole installation without real time: crashes at every await, and nothing is lost.

CALLBOARD_TEST_SEED=<seed> runs one schedule; CALLBOARD_TEST_SIMULATION=<seconds> is the budget.
"""

from __future__ import annotations

import os
import time

import pytest

from simulation.world import World

BUDGET = float(os.environ.get("CALLBOARD_TEST_SIMULATION", "20"))  # seconds
ONE = os.environ.get("CALLBOARD_TEST_SEED")
FIRST = 1


@pytest.mark.timeout(BUDGET + 120)
def test_every_schedule_keeps_the_promises() -> None:
    if ONE is not None:
        World(int(ONE)).run()
        return
    deadline, seed = time.monotonic() + BUDGET, FIRST
    while time.monotonic() < deadline:
        World(seed).run()
        seed += 1
    print(f"{seed - FIRST} schedules")


def test_a_seed_replays_exactly() -> None:
    first, again, other = World(4711), World(4711), World(4712)
    for world in (first, again, other):
        world.run()
    assert first.trace == again.trace
    assert first.trace != other.trace


@pytest.mark.parametrize(
    ("command", "comes_to"),
    [
        ("StartRun", "'AttemptStarted', 'EventsCommitted', 'StepsBegun'"),  # granted together with its first step
        ("ExpireToolCalls", "'ToolCallSettled'"),
        ("AppendEvents", "'EventsCommitted'"),
        ("ReleaseRun", "'RunDispatched'"),
    ],
)
def test_schedules_go_every_way(command: str, comes_to: str) -> None:
    """What the simulation is said to cover must happen in it."""
    for seed in range(FIRST, FIRST + 50):
        world = World(seed)
        world.run()
        if any(f" {command} [" in line and comes_to in line for line in world.trace):
            return
    raise AssertionError(f"no schedule has a {command} with {comes_to}")


def test_schedules_have_groups_of_which_one_partition_is_lost() -> None:
    """What is held against the others of such a group must have happened at all."""
    for seed in range(FIRST, FIRST + 200):
        world = World(seed)
        world.run()
        if any(len(fences) > 1 and outcome.startswith("PartitionsLost") for fences, _, outcome in world.tables.history):
            return
    raise AssertionError("no schedule has one")
