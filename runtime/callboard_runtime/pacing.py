"""Lets the heavy steps of many runs begin one after the other, those nearest to their first token first.

What becomes ready at one moment runs in one turn of the event loop, and nothing is read meanwhile. Sixteen runs that
come together would all be built before the loop looks at what the first one's actor or model has answered; and as an
answer takes several turns from the socket to who waits for it, one heavy step in every turn would still hold it up.
"""

from __future__ import annotations

import asyncio
from enum import IntEnum
from heapq import heappop, heappush
from itertools import count
from weakref import WeakKeyDictionary

BREATH = 8  # turns of the loop between two heavy steps: what has arrived meanwhile gets through to who waits for it
CROWD = 16  # steps that wait, from which on the loop breathes once only: it has no time to lose then


class Step(IntEnum):
    """What a run is about to do; the smaller goes first."""

    REQUEST = 0  # to a model: the run is granted
    CREW = 1  # built and kicked off


class Pace:
    """One of those who wait goes on at a time, the more urgent first, then in the order of their coming."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Step, int, asyncio.Future[None]]] = []
        self._numbers = count()
        self._breath = 0  # turns that are left until the next one may go on

    async def turn(self, step: Step) -> None:
        """Returns when it is the caller's turn; at once if nobody had one in the last turns of the loop."""
        if not self._breath:
            self._begin()
            return
        waiter = self._loop.create_future()
        heappush(self._waiting, (step, next(self._numbers), waiter))
        await waiter

    def _begin(self) -> None:
        self._breath = BREATH if len(self._waiting) < CROWD else 1
        self._loop.call_soon(self._breathe)

    def _breathe(self) -> None:
        self._breath -= 1
        if self._breath:
            self._loop.call_soon(self._breathe)
            return
        while self._waiting:
            *_, waiter = heappop(self._waiting)
            if not waiter.done():  # else its caller was cancelled
                waiter.set_result(None)
                self._begin()
                return


_PACES: WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = WeakKeyDictionary()


async def turn(step: Step) -> None:
    """Wait until no other heavy step of the running loop is under way or due first."""
    loop = asyncio.get_running_loop()
    if loop not in _PACES:
        _PACES[loop] = Pace()
    await _PACES[loop].turn(step)
