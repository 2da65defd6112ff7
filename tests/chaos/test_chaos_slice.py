"""A short slice of `make chaos`: two rounds of blows on real processes, every promise checked, and one planted bug.

CALLBOARD_TEST_SEED=<seed> draws the same blows again.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from chaos.rounds import Result, installation
from services.session import Services
from shared_stacks import SharedStacks

SEED = int(os.environ.get("CALLBOARD_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 2**31)


@pytest.mark.timeout(400)
async def test_every_promise_holds(
    services: Services, stacks: SharedStacks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder: Path = tmp_path_factory.mktemp("chaos")
    result = Result(SEED)
    async with installation(services, stacks.zygote, folder) as it:
        await it.round(SEED, sessions=5, turns=2, blows=5, heavy=False, result=result)
        await it.round(SEED + 1, sessions=5, turns=2, blows=4, heavy=True, result=result)
        print(it.callboard.logs())
    assert not result.broken, f"CALLBOARD_TEST_SEED={SEED}: {result.broken}"
    assert result.accepted > 10, "the rounds did nothing"
    assert min(result.examined[promise] for promise in range(1, 10)) > 0


@pytest.mark.timeout(200)
async def test_a_planted_bug_is_found(
    services: Services, stacks: SharedStacks, tmp_path_factory: pytest.TempPathFactory
) -> None:
    result = Result(SEED)
    async with installation(services, stacks.zygote, tmp_path_factory.mktemp("plant"), plant="terminal_twice") as it:
        await it.round(SEED, sessions=2, turns=1, blows=0, heavy=False, result=result, end_within=20, kinds=("talk",))
    assert 2 in result.broken, result.broken
