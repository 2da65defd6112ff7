"""The SSE response of one reader: frames out, keep-alives in silence, and an end that tells the browser what to do.

In:  chunks, or None for a heartbeat.
Out: `id: <epoch>-<seq>\\ndata: {…}\\n\\n`, framed by LF alone; a clean end after the leg's closing event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Self

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
    closed = False
    with StallWatch(response) as watch, contextlib.suppress(ConnectionError):
        async with contextlib.aclosing(chunks):
            async for chunk in chunks:
                await watch.write(KEEP_ALIVE if chunk is None else form(chunk).frames)
                if chunk is not None:
                    metrics.events_sent += chunk.last.seq - chunk.first + 1
                    closed = chunk.closing
        if not closed:
            await watch.write(RETRY)
        await response.write_eof()


class StallWatch:
    """Writes, waiting while the client's socket is full; cuts a client that takes nothing for `STALLED` seconds.

    So one chunk is all that is held for it. Raises ConnectionError when the client is gone.
    """

    def __init__(self, response: web.StreamResponse) -> None:
        self._response = response
        self._loop = asyncio.get_running_loop()
        self._since: float | None = None  # when the write under way began

    def __enter__(self) -> Self:
        self._timer = self._loop.call_later(STALLED / 2, self._look)
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    async def write(self, data: bytes) -> None:
        self._since = self._loop.time()
        await self._response.write(data)
        self._since = None

    def _look(self) -> None:
        """One timer per stream, instead of a timeout around every write."""
        if self._since is not None and self._loop.time() - self._since > STALLED:
            request = self._response._req  # pyright: ignore[reportPrivateUsage]
            if request is not None and request.transport is not None:
                STALLED_READERS.inc()
                request.transport.abort()
        self._timer = self._loop.call_later(STALLED / 2, self._look)
