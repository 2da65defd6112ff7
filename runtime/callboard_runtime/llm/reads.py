"""When a streamed answer is read on: while many of them share a process all at once, just before their text is sent.

To be woken for a token, and to pass it up through HTTP's layers, costs more than what is then done with it. What waits
in the socket's buffer meanwhile would wait for its readers' next batch anyway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

AHEAD = 0.004  # seconds before the moment at which batches leave: until then what was read has become events
AT_ONCE = 8  # readers that go on in one turn of the loop; it looks at its sockets between two turns


class ReadMoments:
    """The moments of one event loop, a little before the multiples of `window()` seconds; at 0 it is always now."""

    def __init__(self, window: Callable[[], float]) -> None:
        self._loop, self._window = asyncio.get_running_loop(), window
        self._waiting: list[asyncio.Future[None]] = []
        self._timer: asyncio.Handle | None = None

    def next(self) -> asyncio.Future[None] | None:
        """Done at the next moment; None if that is now."""
        window = self._window()
        if window <= AHEAD:
            return None
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        if self._timer is None:
            due = (self._loop.time() + AHEAD) // window + 1
            self._timer = self._loop.call_at(due * window - AHEAD, self._go_on)
        return waiter

    def _go_on(self) -> None:
        now, self._waiting = self._waiting[:AT_ONCE], self._waiting[AT_ONCE:]
        for waiter in now:
            _wake(waiter)
        self._timer = self._loop.call_soon(self._go_on) if self._waiting else None


_MOMENTS: WeakKeyDictionary[asyncio.AbstractEventLoop, ReadMoments] = WeakKeyDictionary()


def read_together(window: Callable[[], float]) -> None:
    """Have the streams of the running loop read together; see `ReadMoments`."""
    _MOMENTS[asyncio.get_running_loop()] = ReadMoments(window)


class StreamReads:
    """The pauses of one response's reader; none once its last byte has come."""

    def __init__(self, response: Any) -> None:
        self._moments = _MOMENTS.get(asyncio.get_running_loop())
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        content = _content(response) if self._moments else None
        if content is None:
            self._moments = None  # who would not be told of the end reads everything as it comes
        else:
            content.on_eof(self._end)

    async def pause(self) -> None:
        """Returns when it is time to read on."""
        if self._moments is None or self._ended:
            return
        self._waiter = self._moments.next()
        if self._waiter is not None:
            await self._waiter

    def _end(self) -> None:
        self._ended = True
        if self._waiter is not None:
            _wake(self._waiter)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


def _content(response: Any) -> Any:
    """What aiohttp holds of a response that LiteLLM fetched with it; None for another transport's."""
    source = getattr(getattr(response, "stream", None), "_stream", None)  # what httpx wraps
    return getattr(getattr(source, "_aiohttp_response", None), "content", None)
