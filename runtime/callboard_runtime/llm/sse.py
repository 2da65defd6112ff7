"""In: the bytes of an OpenAI-shaped stream. Out: the JSON objects in it, without the SDK's models around them.

The SDK makes a tree of pydantic models of every token, which costs ten times as much as reading it.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any, cast

import orjson
from openai import APIError, AsyncStream

from callboard_runtime.llm.reads import StreamReads

DONE = b"[DONE]"
MAX_EVENT_BYTES = 1024 * 1024  # of one event; no provider comes near it, and what never ends would fill the memory


class EventDecodeError(ValueError):
    """What was sent is no event that anyone could read."""


class EventReader:
    """Splits server-sent events out of a byte stream; of each, only its data matters here."""

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._data_bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that are complete now; an event that never ends with an empty line is left out.

        Raises EventDecodeError above MAX_EVENT_BYTES of what is not complete.
        """
        lines = (self._rest + chunk).splitlines(keepends=True)
        self._rest = b"" if not lines or lines[-1].endswith(b"\n") else lines.pop()
        events: list[bytes] = []
        for line in lines:
            line = line.rstrip(b"\r\n")
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line[5:6] == b" " else line[5:])
                self._data_bytes += len(line)
            elif not line and self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
                self._data_bytes = 0
        if len(self._rest) + self._data_bytes > MAX_EVENT_BYTES:
            raise EventDecodeError(f"an event of the stream has more than {MAX_EVENT_BYTES} bytes")
        return events


async def openai_chunks(stream: AsyncStream[Any]) -> AsyncGenerator[list[dict[str, Any]]]:
    """What an OpenAI SDK's stream would yield, as plain objects, those of one read together; with the same errors.

    Raises openai.APIError for an error inside the stream, ValueError for what is no JSON, and httpx's errors.
    """
    reader, reads = EventReader(), StreamReads(stream.response)
    async for chunk in stream.response.aiter_bytes():
        found: list[dict[str, Any]] = []
        try:
            done = _read_events(reader.feed(chunk), found, stream)
        except Exception:
            yield found  # what came before the error is part of the answer
            raise
        yield found
        if done:
            return
        await reads.pause()


def _read_events(events: list[bytes], found: list[dict[str, Any]], stream: AsyncStream[Any]) -> bool:
    """Add the objects to those `found`; returns whether the stream said that it ends."""
    for data in events:
        if data.startswith(DONE):
            return True
        event = parse(data)
        if isinstance(event, dict):
            chunk = cast(dict[str, Any], event)
            _raise_error(chunk, stream)
            found.append(chunk)
    return False


def parse(data: bytes) -> Any:
    """JSON as Python reads it; orjson is faster, but refuses half of a surrogate pair, which some providers send."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)


def _raise_error(event: dict[str, Any], stream: AsyncStream[Any]) -> None:
    error: Any = event.get("error")
    if error:
        said = cast(dict[str, Any], error).get("message") if isinstance(error, dict) else None
        message = said if isinstance(said, str) and said else "An error occurred during streaming"
        raise APIError(message, stream.response.request, body=cast(object, error))
