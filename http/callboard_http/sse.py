"""The SSE response of one reader: frames out, keep-alives in silence, and an end that tells the browser what to do.

In:  chunks, or None for a heartbeat.
Out: `id: <epoch>-<seq>\\ndata: {…}\\n\\n`, framed by LF alone; a clean end after the leg's closing event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import ClassVar
from weakref import WeakKeyDictionary

from aiohttp import web

from callboard_http.chunk import Chunk
from callboard_http.metrics import STALLED_READERS, Metrics

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",  # a proxy must pass every frame on at once
}
KEEP_ALIVE = b": keep-alive\n\n"
RETRY = b"retry: 1000\n\n"  # milliseconds: the browser comes back to another front, with its cursor
STALLED = 120.0  # seconds a client may take to accept one write before it is given up

Form = Callable[[Chunk], Chunk]


async def open_stream(request: web.Request) -> web.StreamResponse:
    """Send the headers, so that the browser knows at once that it is connected."""
    response = web.StreamResponse(headers=HEADERS)
    response.content_length = None
    await response.prepare(request)
    return response


async def stream(
    response: web.StreamResponse, chunks: AsyncGenerator[Chunk | None], form: Form, metrics: Metrics
) -> None:
    """Write chunks until they end; one write per chunk. A client that went away, or stalls, ends it, too."""
    closed, writes = False, Writes.here()
    try:
        async for chunk in chunks:
            await writes.write(response, KEEP_ALIVE if chunk is None else form(chunk).frames)
            if chunk is not None:
                metrics.events_sent += chunk.last.seq - chunk.first + 1
                closed = chunk.closing
        if not closed:
            await writes.write(response, RETRY)
        await response.write_eof()
    except ConnectionError:
        pass
    finally:
        await chunks.aclose()


class Writes:
    """The writes of this event loop that wait for their clients; one timer for all of them cuts those that stall.

    A client that takes nothing for `STALLED` seconds is given up, so one chunk is all that is held for it.
    """

    _of_loops: ClassVar[WeakKeyDictionary[asyncio.AbstractEventLoop, Writes]] = WeakKeyDictionary()

    def __init__(self) -> None:
        self._began: dict[web.StreamResponse, float] = {}
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def here(cls) -> Writes:
        loop = asyncio.get_running_loop()
        if loop not in cls._of_loops:
            cls._of_loops[loop] = cls()
        return cls._of_loops[loop]

    async def write(self, response: web.StreamResponse, data: bytes) -> None:
        """Return when the client's socket is no longer full; raises ConnectionError when the client is gone."""
        loop = asyncio.get_running_loop()
        self._began[response] = loop.time()
        self._timer = self._timer or loop.call_later(STALLED / 2, self._look)
        try:
            await response.write(data)
        finally:
            del self._began[response]

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for response, began in list(self._began.items()):
            if loop.time() - began > STALLED:
                _cut(response)
        self._timer = loop.call_later(STALLED / 2, self._look) if self._began else None


def _cut(response: web.StreamResponse) -> None:
    request = response._req  # pyright: ignore[reportPrivateUsage]
    if request is not None and request.transport is not None:
        STALLED_READERS.inc()
        request.transport.abort()
