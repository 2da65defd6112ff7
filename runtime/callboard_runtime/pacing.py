"""Lets the heavy steps of many runs begin one after the other, so that the first of them need not wait for the last.

What becomes ready at one moment runs in one turn of the event loop, and nothing is read meanwhile. Sixteen runs that
are granted together would all build their requests before the loop looks at what the first one's model has answered.
"""

from __future__ import annotations

import asyncio
from collections import deque
from weakref import WeakKeyDictionary


class Pace:
    """One of those who wait goes on in each turn of the loop, in the order of their coming."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._going = False

    async def turn(self) -> None:
        """Returns when it is the caller's turn; at once if nobody had one in this turn of the loop."""
        if not self._going:
            self._going = True
            self._loop.call_soon(self._next)
            return
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _next(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():  # else its caller was cancelled
                waiter.set_result(None)
                self._loop.call_soon(self._next)
                return
        self._going = False


_PACES: WeakKeyDictionary[asyncio.AbstractEventLoop, Pace] = WeakKeyDictionary()


async def turn() -> None:
    """Wait for a turn of the running loop that no other heavy step has."""
    loop = asyncio.get_running_loop()
    if loop not in _PACES:
        _PACES[loop] = Pace()
    await _PACES[loop].turn()
