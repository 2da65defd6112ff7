"""Server-sent events out of bytes, however the network cut them.

In:  chunks of a response body
Out: frames; comments and unknown fields are dropped
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from callboard_runtime.client.errors import UnexpectedAnswer

MAX_FRAME = 64 * 1024 * 1024  # bytes; a snapshot of a long session is one frame


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `retry` is in milliseconds."""

    id: str | None = None
    data: bytes | None = None
    retry: int | None = None


class FrameParser:
    """Keeps what is not complete yet. A frame that never ends raises UnexpectedAnswer."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[bytes, bytes] = {}

    def feed(self, chunk: bytes) -> Iterator[Frame]:
        """The frames that this chunk completes."""
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        if len(self._rest) > MAX_FRAME:
            raise UnexpectedAnswer(f"an event has more than {MAX_FRAME} bytes")
        for line in lines:
            if text := line.rstrip(b"\r"):
                self._take(text)
            elif self._fields:
                yield self._frame()

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data" and name in self._fields:
            value = self._fields[name] + b"\n" + value
        if name:
            self._fields[name] = value

    def _frame(self) -> Frame:
        fields, self._fields = self._fields, {}
        event_id, retry = fields.get(b"id"), fields.get(b"retry", b"")
        return Frame(
            id=event_id.decode(errors="replace") if event_id else None,
            data=fields.get(b"data"),
            retry=int(retry) if retry.isdigit() else None,
        )
