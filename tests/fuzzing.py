"""How hard fuzz tests try: a fixed small budget that always plays the same, or as much as one asks for, at random."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

# What is tested runs beside the strategies and rolls dice, too, which Hypothesis takes for the strategies' doing.
PLAYED_BESIDE = pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
ASKED = int(os.environ.get("CALLBOARD_TEST_FUZZ", "0"))


def budget(examples: int) -> settings:
    """`examples` that are the same every time, or CALLBOARD_TEST_FUZZ times as many at random."""
    return settings(
        max_examples=examples * max(1, ASKED),
        derandomize=not ASKED,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )


async def explore(test: Callable[[Any], Awaitable[None]], strategy: SearchStrategy[Any], examples: int) -> None:
    """Run a coroutine function on what the strategy makes, on this event loop; raises what the simplest failure did."""
    loop = asyncio.get_running_loop()

    @budget(examples)
    @given(strategy)
    def one(made: Any) -> None:
        asyncio.run_coroutine_threadsafe(_awaited(test(made)), loop).result()

    await asyncio.to_thread(one)


async def _awaited(work: Awaitable[None]) -> None:
    await work
