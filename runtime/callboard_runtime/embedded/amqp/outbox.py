"""Bytes on their way to one socket: joined once per loop iteration, with a high-water mark.

In: frames of all channels.  Out: one write per iteration, and `writable` for whoever produces more.
"""

import asyncio
from collections.abc import Callable


class Outbox:
    """`before_flush` may add last frames; `on_room` is called after `writable` became true again."""

    def __init__(
        self,
        transport: asyncio.Transport,
        *,
        high_water: int,
        hard_limit: int,
        before_flush: Callable[[], None],
        on_room: Callable[[], None],
    ) -> None:
        self._transport = transport
        self._high_water = high_water
        self._hard_limit = hard_limit
        self._before_flush = before_flush
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._parts: list[bytes] = []
        self._size = 0
        self._scheduled = False
        self._transport_full = False
        self._reading_paused = False
        self.sent_since_check = False
        transport.set_write_buffer_limits(high=high_water, low=high_water // 4)

    @property
    def writable(self) -> bool:
        return not self._transport_full and self._size < self._high_water

    def send(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        self.schedule()

    def schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush_scheduled)

    def flush(self) -> None:
        self._before_flush()
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
            self.sent_since_check = True
        self._parts.clear()
        self._size = 0
        self._limit_reading()

    def transport_full(self) -> None:
        self._transport_full = True

    def transport_drained(self) -> None:
        self._transport_full = False
        if self._reading_paused and not self._transport.is_closing():
            self._reading_paused = False
            self._transport.resume_reading()
        self._on_room()

    def _flush_scheduled(self) -> None:
        self._scheduled = False
        was_full = not self.writable
        self.flush()
        if was_full and self.writable:
            self._on_room()

    def _limit_reading(self) -> None:
        """A peer that asks without reading the answers is not heard until it reads."""
        full = self._transport.get_write_buffer_size() > self._hard_limit
        if full and not self._reading_paused and not self._transport.is_closing():
            self._reading_paused = True
            self._transport.pause_reading()
