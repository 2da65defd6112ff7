"""`callboard http`: one front process; start as many as you like behind one balancer."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from callboard_runtime.garbage import leave_loaded_alone
from callboard_runtime.settings import Settings

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger(__name__)

MAX_LINE = 8190  # bytes of the request line
MAX_HEADER = 16_384  # bytes of one header field: room for a JWT
BACKLOG = 4096  # connections that wait to be taken; the system may allow fewer: a lost one comes back after seconds
STALLED = 120.0  # seconds a client may leave unread what was sent to it
CLOSE_TIMEOUT = 2.0  # seconds for handlers that are left after the drain


def http(
    host: Annotated[str | None, typer.Option(help="Address to listen on; default: CALLBOARD_HTTP__HOST")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; default: CALLBOARD_HTTP__PORT")] = None,
) -> None:
    """Serve the HTTP API. Start any number of processes."""
    settings = _with(Settings(), host, port)
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(serve(settings))


async def serve(settings: Settings, listening: Callable[[int], None] | None = None) -> None:
    """Serve until SIGTERM or SIGINT, then drain; `listening` is told the port."""
    from aiohttp import web  # late: the command line lists its commands without aiohttp

    from callboard_http.app import create_app

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    logging.getLogger("aiohttp.server").addFilter(_Malformed())
    runner = web.AppRunner(
        create_app(settings),
        handler_cancellation=True,  # a reader ends with its client
        access_log=None,
        shutdown_timeout=CLOSE_TIMEOUT,
        keepalive_timeout=settings.http.idle_timeout,  # counts from the connection on: a slow head ends with it, too
        max_line_size=MAX_LINE,
        max_field_size=MAX_HEADER,
    )
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.http.host, settings.http.port, backlog=BACKLOG)
        await site.start()
        _give_up_stalled(site)
        leave_loaded_alone()
        port = int(runner.addresses[0][1])
        logger.info("listening on http://%s:%s", settings.http.host, port, extra={"action": "listening"})
        if listening:
            listening(port)
        await stop.wait()
        logger.info("draining", extra={"action": "draining"})
    finally:
        await runner.cleanup()


def _give_up_stalled(site: web.TCPSite) -> None:
    """Have the kernel end the connection of a client that takes nothing of what it asked for, be it no stream."""
    server = site._server  # pyright: ignore[reportPrivateUsage] - there is no other way to its sockets
    if isinstance(server, asyncio.AbstractServer) and hasattr(socket, "TCP_USER_TIMEOUT"):
        for listening in getattr(server, "sockets", ()):  # what it accepts inherits the option
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED * 1000))


class _Malformed(logging.Filter):
    """What a client sent that is no HTTP is no error of ours, and its text, perhaps a token, is not for the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        from aiohttp.http_exceptions import HttpProcessingError

        if record.exc_info and isinstance(record.exc_info[1], HttpProcessingError):
            record.msg, record.args = "a malformed request was refused: %s", (type(record.exc_info[1]).__name__,)
            record.exc_info = record.exc_text = None
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.action = "malformed_request"
        return True


def _with(settings: Settings, host: str | None, port: int | None) -> Settings:
    """The settings with what the command line names."""
    given = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    return settings.model_copy(update={"http": settings.http.model_copy(update=given)}) if given else settings


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
