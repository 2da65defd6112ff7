"""Acknowledgements on their way to the broker: those of one turn of the event loop, of all channels, in one write.

In: delivery tags, settled or set aside. Out: frames, one write under way at a time.

The order matters: a bulk that overtakes a single tag settles it, and the broker closes a channel on which a tag is
settled twice. So whatever is settled while a write waits for the socket goes into the next one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractChannel, AbstractConnection

from callboard_runtime.broker.connection import write_frames
from callboard_runtime.broker.frames import basic_ack, basic_nack

logger = logging.getLogger(__name__)

LOOK_EVERY = 5.0  # seconds in which a socket takes nothing, until it is asked whether the connection is gone


class AckChannel(Protocol):
    """What is used of a channel."""

    number: int

    @property
    def is_closed(self) -> bool: ...


class AckLine:
    """One connection's acknowledgements.

    What cannot be written is dropped: the channel is gone, and the broker delivers the messages again.
    """

    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write
        self._due: dict[Acknowledger, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, acks: Acknowledger) -> None:
        """Have what is settled there written at the end of this turn of the event loop."""
        self._due[acks] = None
        self._task = self._task or asyncio.create_task(self._flush())

    async def flushed(self) -> None:
        """Wait until what was settled so far is on its way."""
        for _ in range(2):  # the write under way, and the one behind it
            if self._task is not None:
                await asyncio.wait([self._task])

    async def _flush(self) -> None:
        due, self._due = self._due, {}
        try:
            if wire := b"".join([acks.frames() for acks in due]):
                await self._write(wire)
        except (*CONNECTION_EXCEPTIONS, TimeoutError) as error:
            logger.debug("not acknowledged, it will come again: %s", error)
        finally:
            self._task = asyncio.create_task(self._flush()) if self._due else None


class AckLines:
    """The line of the connection in use; a new connection gets a new one."""

    def __init__(self) -> None:
        self._connection: AbstractConnection | None = None
        self._line: AckLine | None = None

    def of(self, channel: AbstractChannel) -> AckLine:
        connection = cast(AbstractConnection, cast(Any, channel).connection)  # the base class does not name it
        if self._line is None or connection is not self._connection:
            self._connection = connection
            self._line = AckLine(lambda wire: write_while_open(connection, wire, LOOK_EVERY))
        return self._line


async def write_while_open(connection: AbstractConnection, wire: bytes, look_every: float) -> None:
    """Hand it to the socket for as long as the connection lives, however slow: a living channel forgets no message.

    Raises TimeoutError once the connection is closed.
    """
    while True:
        try:
            return await write_frames(connection, wire, timeout=look_every)
        except TimeoutError:
            if connection.is_closed:
                raise


class Acknowledger:
    """The messages of one channel, in as few frames as possible; each may be settled once."""

    def __init__(self, channel: AckChannel, line: AckLine) -> None:
        self.channel, self._line = channel, line
        self._open: dict[int, bool] = {}  # delivery tag -> settled; in delivery order
        self._returned: list[bytes] = []

    def delivered(self, tag: int) -> None:
        self._open[tag] = False

    def ack(self, tag: int) -> None:
        """Acknowledge at the end of this turn of the event loop."""
        if tag in self._open:
            self._open[tag] = True
            self._line.add(self)

    def reject(self, tag: int) -> None:
        """Give one message to the dead-letter queue; just as soon."""
        if self._open.pop(tag, None) is not None:
            self._returned.append(basic_nack(self.channel.number, tag, requeue=False))
            self._line.add(self)

    async def flushed(self) -> None:
        """Wait until what was settled so far is on its way."""
        await self._line.flushed()

    def frames(self) -> bytes:
        """What was settled since the last call; nothing for a channel that is closed."""
        if self.channel.is_closed:
            return b""
        number, (returned, self._returned) = self.channel.number, (self._returned, [])
        together, alone = self._settled()
        bulk = [] if together is None else [basic_ack(number, together, multiple=True)]
        return b"".join([*returned, *bulk, *(basic_ack(number, tag) for tag in alone)])

    def _settled(self) -> tuple[int | None, list[int]]:
        """The last of the settled tags before the first open one, and the settled ones behind that."""
        together = None
        while self._open and (first := next(iter(self._open))) and self._open[first]:
            del self._open[first]
            together = first
        alone = [tag for tag, settled in self._open.items() if settled]
        for tag in alone:
            del self._open[tag]
        return together, alone
