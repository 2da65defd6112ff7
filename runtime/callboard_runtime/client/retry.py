"""How long to wait before the next try, and when to give up."""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """`total` seconds without any progress end a call; waits double from `first` to `longest`, with jitter."""

    total: float = 60.0
    first: float = 0.2
    longest: float = 10.0


class Tries:
    """The failed tries of one call since its last progress."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._count = 0
        self._since: float | None = None

    def progress(self) -> None:
        """What came so far is worth a fresh start."""
        self._count, self._since = 0, None

    async def pause(self, error: Exception | None, at_least: float | None = None) -> None:
        """Wait for the next try, no less than the server asked for; raises `error` when patience ends before that."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        wait = self._delay(at_least)
        if error is not None and now + wait > self._since + self._patience.total:
            raise error
        self._count += 1
        await asyncio.sleep(wait)

    def _delay(self, at_least: float | None) -> float:
        """Seconds; the jitter keeps many clients that failed together from coming back together."""
        window = min(self._patience.longest, self._patience.first * 2 ** min(self._count, 20))
        jittered = window * random.uniform(0.5, 1.0)  # noqa: S311 - spreads load, guards nothing
        return jittered if at_least is None else at_least + jittered * 0.5
