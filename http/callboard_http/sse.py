"""The SSE response of one reader: frames out, keep-alives in silence, and an end that tells the browser what to do.

In:  chunks, or None for a heartbeat.
Out: `id: <epoch>-<seq>\\ndata: {…}\\n\\n`, framed by LF alone; a clean end after the leg's closing event.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from aiohttp import web

from callboard_http.chunk import Chunk
from callboard_http.metrics import Metrics

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
    async with contextlib.aclosing(chunks):
        async for chunk in chunks:
            if not await _write(response, KEEP_ALIVE if chunk is None else form(chunk).frames):
                return
            if chunk is not None:
                metrics.events_sent += chunk.last.seq - chunk.first + 1
                closed = chunk.closing
    if closed or await _write(response, RETRY):
        with contextlib.suppress(ConnectionError):
            await response.write_eof()


async def _write(response: web.StreamResponse, data: bytes) -> bool:
    """Whether the client took it; waits while its socket is full, so that one chunk is all that is held for it."""
    try:
        async with asyncio.timeout(STALLED):
            await response.write(data)
    except ConnectionError:
        return False
    except TimeoutError:
        _abort(response)
        return False
    return True


def _abort(response: web.StreamResponse) -> None:
    transport = response._req.transport if response._req else None  # pyright: ignore[reportPrivateUsage]
    if transport is not None:
        transport.abort()
