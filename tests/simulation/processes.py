"""Simulated processes: whatever one of them wants from outside passes `call`, where it may die, freeze or fail."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any, TypeVar

from callboard_runtime.errors import Unavailable

T = TypeVar("T")

SOON, LATE = 0.005, 0.4  # seconds


class Process:
    """A dead one never gets an answer, a frozen one gets it when it is thawed; what it had sent takes effect."""

    def __init__(self, name: str, chance: Random) -> None:
        self.name, self.alive = name, True
        self._chance = chance
        self._thawed = asyncio.Event()
        self._thawed.set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._steps = 0
        self._due: dict[int, Callable[[], None]] = {}
        self.on_death: Callable[[], None] = lambda: None

    @property
    def frozen(self) -> bool:
        return not self._thawed.is_set()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def kill(self) -> None:
        if self.alive:
            self.alive = False
            self._thawed.set()
            self.on_death()

    def after(self, steps: int, fault: Callable[[], None]) -> None:
        """Meet this fault at the suspension point so many from here: a seed can reach each of them."""
        self._due[self._steps + steps] = fault

    def freeze(self) -> None:
        self._thawed.clear()

    def thaw(self) -> None:
        self._thawed.set()

    async def point(self) -> None:
        """A suspension point: the dead stay here for ever."""
        self._steps += 1
        if self._due and (fault := self._due.pop(self._steps, None)) is not None:
            fault()
        while not self._thawed.is_set():
            await self._thawed.wait()
        if not self.alive:
            await asyncio.get_running_loop().create_future()

    async def latency(self) -> None:
        """Mostly a moment or none at all, rarely long."""
        drawn = self._chance.random()
        if drawn > 0.5:
            await asyncio.sleep(LATE * (drawn - 0.97) * 33 if drawn > 0.97 else SOON * drawn)

    async def call(self, effect: Callable[[], T]) -> T:
        """Ask something outside: it takes effect once it was sent, whatever happens to the asker meanwhile."""
        await self.point()
        await self.latency()
        try:
            return effect()
        finally:
            await self.latency()
            await self.point()


class Outage:
    """A service that may be away; then it fails before or after a request took effect."""

    def __init__(self, what: str, chance: Random) -> None:
        self.what, self.up, self.flaky = what, True, 0.0
        self._chance = chance

    def use(self, effect: Callable[[], T]) -> T:
        if not self.up or self._chance.random() < self.flaky / 2:
            raise Unavailable(f"{self.what} is away")
        result = effect()
        if self._chance.random() < self.flaky / 2:
            raise Unavailable(f"{self.what} went away before it answered")
        return result
