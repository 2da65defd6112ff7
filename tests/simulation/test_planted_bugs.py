"""The simulation finds every bug that is planted on purpose, within a bounded number of schedules."""

from __future__ import annotations

import pytest

from simulation import plants
from simulation.world import World

SCHEDULES = range(1, 150)


@pytest.mark.parametrize("name", plants.EVERY)
def test_a_planted_bug_is_found(name: str) -> None:
    found = plants.find(name, SCHEDULES)
    assert found is not None, f"{name} was not found in {len(SCHEDULES)} schedules"
    seed, _ = found
    World(seed).run()  # without the bug the same schedule keeps every promise


def test_the_finding_names_its_seed_and_its_promise() -> None:
    found = plants.find("second_answer_taken", SCHEDULES)
    assert found is not None
    seed, error = found
    assert f"CALLBOARD_TEST_SEED={seed}" in str(error)
    assert 7 in error.promises
