"""Waiting for a condition that nothing tells of: other processes' states, databases, brokers."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

_FIRST, _LONGEST = 0.005, 0.05  # seconds between two looks: what is there soon is seen soon, the rest costs little


async def until(
    condition: Callable[[], Awaitable[object] | object], what: str = "what is waited for", *, timeout: float = 60.0
) -> Any:
    """Wait until `condition`, a function or a coroutine function, gives something true, and return that.

    Raises TimeoutError naming `what` after `timeout` seconds.
    """
    deadline, pause = time.monotonic() + timeout, _FIRST
    while True:
        result = condition()
        result = await result if isinstance(result, Awaitable) else result
        if result:
            return result
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST)


def wait_until(condition: Callable[[], object], what: str, *, timeout: float) -> None:
    """The same outside an event loop."""
    deadline, pause = time.monotonic() + timeout, _FIRST
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout:g} s")
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST)
