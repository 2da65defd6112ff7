"""One AMQP connection that is rebuilt for as long as it is wanted, together with the channel that is used on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from typing import Any, Generic, TypeVar, cast

import aio_pika
import aiormq
import aiormq.abc
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS, DeliveryError
from aiormq import spec
from aiormq.abc import ChannelFrame
from pamqp.common import FieldTable

from callboard_runtime.broker.frames import Header, transient
from callboard_runtime.errors import Unavailable

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 5.0  # seconds
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries to connect


class ConnectionGone(Exception):
    """The connection broke before the operation was known to be done."""


class Line:
    """What is used of one connection: it is gone when the connection is, and a new one takes its place."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        self.channel = channel

    @property
    def channels(self) -> tuple[aiormq.abc.AbstractChannel, ...]:
        """All that are used: when one of them is closed, the line is gone."""
        return (self.channel,)

    def lost(self) -> None:
        """Called once, when the connection or a channel is gone."""

    async def publish(
        self,
        exchange: str,
        routing_key: str,
        body: bytes,
        properties: spec.Basic.Properties,
        *,
        mandatory: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Publish, and wait for the confirmation if the channel has them.

        Raises ConnectionGone; PublishError for an unroutable mandatory message; DeliveryError when the broker refused
        it; TimeoutError after `timeout` seconds.
        """
        async with gone_when_broken():
            await self.channel.basic_publish(
                body,
                exchange=exchange,
                routing_key=routing_key,
                properties=properties,
                mandatory=mandatory,
                timeout=timeout,
                # The socket is not waited for: a confirmation says more, and without one nobody needs to know.
                wait=False,  # pyright: ignore[reportCallIssue] - the base class lacks this parameter of every channel
            )

    async def publish_transient(
        self, exchange: str, routing_key: str, headers: Mapping[str, Header], body: bytes, *, timeout: float
    ) -> None:
        """Hand a message to the socket on a channel without confirmations, and do not look back.

        Raises ConnectionGone; TimeoutError when the socket takes nothing for `timeout` seconds.
        """
        channel = cast(aiormq.Channel, self.channel)
        if channel.is_closed:
            raise ConnectionGone("the channel was closed")
        wire = transient(channel.number, exchange, routing_key, headers, body, channel.max_content_size)
        await write_frames(channel.connection, wire, timeout=timeout)


async def write_frames(connection: aiormq.abc.AbstractConnection, wire: bytes, *, timeout: float) -> None:
    """Hand encoded frames to the socket; raises TimeoutError when it takes nothing for `timeout` seconds."""
    frame = ChannelFrame(payload=wire, should_close=False)
    queue = cast("asyncio.Queue[ChannelFrame]", connection.write_queue)  # pyright: ignore[reportUnknownMemberType]
    try:
        queue.put_nowait(frame)
    except asyncio.QueueFull:
        async with asyncio.timeout(timeout):
            await queue.put(frame)


L = TypeVar("L", bound=Line)


class BrokerLink(Generic[L]):
    """Keeps a connection open until `close`; each new one is handed to `build`, which makes the line used on it.

    Tries again after 0.1 to 2 s, for ever. Belongs to the event loop that called `start`.
    """

    def __init__(self, url: str, name: str, build: Callable[[AbstractConnection], Awaitable[L]]) -> None:
        self._url, self._name, self._build = url, name, build
        self._current: L | None = None
        self._up = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        self._failures = 0

    @property
    def current(self) -> L | None:
        """The line in use, or None while the broker is away."""
        return self._current

    async def start(self, wait: float) -> None:
        """Connect in the background; returns when connected, at the latest after `wait` seconds."""
        self._keeper = asyncio.create_task(self._keep(), name=f"broker-link-{self._name}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._up.wait(), wait)

    async def line(self) -> L:
        """The line in use; waits for as long as there is none."""
        while self._current is None:
            await self._up.wait()
        return self._current

    async def close(self) -> None:
        """Close the connection and stay closed."""
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None

    async def _keep(self) -> None:
        while True:
            try:
                await self._serve()
            except CONNECTION_EXCEPTIONS as error:
                self._note_failure(error)
            except asyncio.CancelledError as error:
                if is_real_cancellation():
                    raise
                self._note_failure(error)
            except Exception:
                logger.exception("%s: connecting failed", self._name, extra={"action": "broker_failed"})
                self._failures += 1
            if is_real_cancellation():  # an outage in the same moment must not hide it: `close` waits for the end
                raise asyncio.CancelledError
            await asyncio.sleep(self._pause())

    async def _serve(self) -> None:
        """Connect and stay until the connection is lost."""
        properties: FieldTable = {"connection_name": self._name}
        connection = await aio_pika.connect(self._url, timeout=CONNECT_TIMEOUT, client_properties=properties)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                line = await self._build(connection)
            if is_real_cancellation():  # what was awaited was done in the same moment, and is used by nobody
                raise asyncio.CancelledError
            with self._in_use(line):
                await _until_lost(connection, line)
        finally:
            await _close_quietly(connection)
        raise ConnectionError("the connection was closed")

    @contextlib.contextmanager
    def _in_use(self, line: L) -> Generator[None]:
        if self._failures:
            logger.info("%s: the broker is back", self._name, extra={"action": "broker_back"})
        self._failures = 0
        self._current = line
        self._up.set()
        try:
            yield
        finally:
            self._current = None
            self._up.clear()
            line.lost()

    def _note_failure(self, error: BaseException) -> None:
        self._failures += 1
        level = logging.WARNING if self._failures == 1 else logging.DEBUG
        text = str(error) or type(error).__name__
        logger.log(level, "%s: the broker is away: %s", self._name, text, extra={"action": "broker_away"})

    def _pause(self) -> float:
        longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        return longest * random.uniform(0.5, 1)  # noqa: S311 - spreads reconnects, hides nothing


@contextlib.asynccontextmanager
async def reach(url: str, timeout: float = CONNECT_TIMEOUT) -> AsyncGenerator[AbstractConnection]:
    """A connection for one look or one errand; raises Unavailable when the broker is away, or goes meanwhile."""
    try:
        connection = await aio_pika.connect(url, timeout=timeout)
        async with connection:
            yield connection
    except DeliveryError:
        raise
    except (*CONNECTION_EXCEPTIONS, ConnectionGone, TimeoutError) as error:
        raise Unavailable(f"the broker cannot be reached: {type(error).__name__}") from error


async def open_channel(connection: AbstractConnection, *, confirms: bool) -> aiormq.abc.AbstractChannel:
    """A channel at the level below aio-pika, where a publish costs half; an unroutable message raises if confirmed."""
    transport = connection.transport
    if transport is None:
        raise ConnectionError("the connection was closed")
    return await transport.connection.channel(publisher_confirms=confirms, on_return_raises=confirms)


@contextlib.asynccontextmanager
async def gone_when_broken() -> AsyncGenerator[None]:
    """Turn whatever a broken connection raises into ConnectionGone; a cancellation of the caller stays one."""
    try:
        yield
    except DeliveryError:
        raise
    except TimeoutError:
        raise
    except CONNECTION_EXCEPTIONS as error:
        raise ConnectionGone(str(error)) from error
    except asyncio.CancelledError as error:
        if is_real_cancellation():
            raise
        raise ConnectionGone("the channel was closed") from error


def is_real_cancellation() -> bool:
    """Whether the present task was cancelled; a closing channel puts CancelledError into its futures, too."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _until_lost(connection: AbstractConnection, line: Line) -> None:
    transport = connection.transport
    if transport is None:
        return
    closing: set[asyncio.Future[Any]] = {
        used.closing  # pyright: ignore[reportUnknownMemberType]
        for used in (transport.connection, *line.channels)
    }
    try:
        await asyncio.wait(closing, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for future in closing:
            future.cancel()


async def _close_quietly(connection: AbstractConnection) -> None:
    with contextlib.suppress(*CONNECTION_EXCEPTIONS, TimeoutError):
        await asyncio.wait_for(connection.close(), CONNECT_TIMEOUT)
