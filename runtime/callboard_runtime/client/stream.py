"""A run's events as one sequence, however often the connection breaks.

In:  server-sent events over any number of connections
Out: every event of the leg once and in order, the last one closing
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Self

import aiohttp
import orjson

from callboard_runtime.client.errors import LimitExceeded, ServerLost, Unavailable, UnexpectedAnswer
from callboard_runtime.client.models import Event
from callboard_runtime.client.retry import Tries
from callboard_runtime.client.sequence import EventSequence
from callboard_runtime.client.sse import Frame, FrameParser
from callboard_runtime.client.transport import BROKEN, Transport
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.errors import InvalidInput

SILENCE = 45.0  # seconds; the server says something every 15


class EventStream:
    """Iterate over it once; `async with` closes the connection at once when you leave before the end.

    Raises EventsMissing for a gap, NotFound, Gone and the like as the server refused, ServerLost after the client's
    patience.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        after: EventId | None,
        *,
        snapshot: bool = False,
        silence: float = SILENCE,
    ) -> None:
        self.connections = 0
        self._transport, self._path, self._silence = transport, path, silence
        self._from_start = "" if snapshot else "?from=start"
        self._sequence = EventSequence(after)
        self._tries = Tries(transport.patience)
        self._server_wait: float | None = None  # seconds, as `retry:` asked
        self._response: aiohttp.ClientResponse | None = None
        self._ended = False
        self._iterator = self._events()

    @property
    def last_id(self) -> EventId | None:
        """The id of the last event that was passed on: give it as `after` to go on later, anywhere."""
        return self._sequence.last

    @property
    def repeated(self) -> int:
        """How many events the server sent again; they were left out."""
        return self._sequence.repeated

    def disconnect(self) -> None:
        """Break the connection; the next event comes over a new one. For tests of a deployment."""
        response, self._response = self._response, None
        if response is not None:
            response.close()

    def __aiter__(self) -> AsyncIterator[Event]:
        return self._iterator

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the stream here; the run goes on."""
        await self._iterator.aclose()

    async def _events(self) -> AsyncGenerator[Event]:
        while True:
            error: Exception | None = None
            wait = None
            try:
                async with aclosing(self._connection()) as events:
                    async for event in events:
                        yield event
            except (Unavailable, LimitExceeded) as refusal:
                error, wait = refusal, refusal.retry_after
            except BROKEN as broken:
                error = ServerLost(f"the event stream broke off: {type(broken).__name__}: {broken}")
                error.__cause__ = broken
            if self._ended:
                return
            error = error or ServerLost("the server keeps ending the event stream before the run has ended")
            await self._tries.pause(error, self._server_wait if wait is None else wait)

    async def _connection(self) -> AsyncGenerator[Event]:
        """The new events of one connection."""
        self.connections += 1
        self._sequence.connected()
        last = self._sequence.last
        headers = {"Last-Event-ID": str(last)} if last else {}
        path = self._path if last else self._path + self._from_start
        async with self._transport.stream(path, headers, self._silence) as response:
            if response is None:
                self._ended = True
                return
            self._response = response
            async for frame in self._frames(response):
                event = _event(frame)
                if event is not None and self._sequence.is_new(event):
                    self._ended = event.closing
                    yield event
                if self._ended:
                    return

    async def _frames(self, response: aiohttp.ClientResponse) -> AsyncGenerator[Frame]:
        parser = FrameParser()
        async for chunk in response.content.iter_any():
            self._tries.progress()  # a sign of life, be it a comment, is worth waiting for the rest
            for frame in parser.feed(chunk):
                if self._response is not response:
                    return  # disconnected on purpose: what had arrived counts as lost on the way
                if frame.retry is not None:
                    self._server_wait = frame.retry / 1000
                yield frame


def _event(frame: Frame) -> Event | None:
    if frame.data is None:
        return None
    try:
        data = orjson.loads(frame.data)
        return Event(EventId.parse(frame.id) if frame.id else None, data)
    except (orjson.JSONDecodeError, InvalidInput) as error:
        raise UnexpectedAnswer(f"the stream holds an event that cannot be read: {error}") from None
