"""Tells the database that this process lives, how much it can take on, and which attempts it runs.

It has a thread, an event loop and a connection of its own: a busy event loop or a broker that is away must not make a
living process look dead.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from callboard_runtime.persistence.database import driver_arguments

logger = logging.getLogger(__name__)

TIMEOUT = 5.0  # seconds for any one exchange with the database
LEAST_PAUSE = 0.25  # seconds between two beats, however much changes

_BEAT = """
INSERT INTO processes (id, kind, host, slots, attempts) VALUES ($1, $2, $3, $4, $5::jsonb)
ON CONFLICT (id) DO UPDATE SET slots = excluded.slots, attempts = excluded.attempts, beat_at = now()
"""
_LEAVE = "DELETE FROM processes WHERE id = $1"


class Heartbeat:
    """Keeps a process's row in `processes`; the time in it is the database's. Outlasts restarts of PostgreSQL."""

    def __init__(
        self,
        database_url: str,
        process: str,
        kind: str,
        *,
        interval: float,
        slots: Callable[[], int] = lambda: 0,
        attempts: Callable[[], Iterable[UUID]] = tuple,
    ) -> None:
        """`interval` in seconds; `slots` (free ones) and `attempts` are called in the heartbeat's own thread."""
        self._arguments, self._process, self._kind = driver_arguments(database_url), process, kind
        self._interval, self._slots, self._attempts = interval, slots, attempts
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake: asyncio.Event | None = None
        self._stopping = False
        self._first = threading.Event()
        self._connection: Any = None  # asyncpg comes without types
        self._failing = False
        self._beaten = time.monotonic()
        self._back = float("-inf")  # when the last outage was over

    def age(self) -> float:
        """Seconds since the database last took a beat, or since this was made."""
        return time.monotonic() - self._beaten

    def heard_for(self, seconds: float) -> bool:
        """Whether the database took this process's beats all that time; before the first outage it counts as so.

        Who could not beat cannot tell that others are silent: they could not either.
        """
        return not self._failing and time.monotonic() - self._back >= seconds

    def start(self) -> None:
        self._thread.start()

    def wait_first(self, timeout: float) -> bool:
        """Wait until the database knows of this process; False if it does not after `timeout` seconds."""
        return self._first.wait(timeout)

    def nudge(self) -> None:
        """Beat soon instead of at the next interval: something changed. Safe from any thread."""
        loop, wake = self._loop, self._wake
        if loop is not None and wake is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: stopped meanwhile
                loop.call_soon_threadsafe(wake.set)

    def stop(self, timeout: float = TIMEOUT) -> None:
        """Stop beating and remove the row, so that nobody waits for this process to fall silent."""
        self._stopping = True
        self.nudge()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        asyncio.run(self._beat_until_stopped())

    async def _beat_until_stopped(self) -> None:
        self._loop, self._wake = asyncio.get_running_loop(), asyncio.Event()
        while not self._stopping:
            self._wake.clear()
            await self._try(self._beat)
            await asyncio.sleep(LEAST_PAUSE if not self._stopping else 0)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), max(0.0, self._interval - LEAST_PAUSE))
        await self._try(self._leave)
        await self._disconnect()

    async def _try(self, action: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                await action()
        except Exception as error:  # noqa: BLE001 - whatever it is: without its thread a living process looks dead
            self._note_failure(error)
            await self._disconnect()
        else:
            self._note_success()

    async def _beat(self) -> None:
        connection = await self._connected()
        attempts = orjson.dumps([str(attempt) for attempt in self._attempts()]).decode()
        await connection.execute(_BEAT, self._process, self._kind, socket.gethostname(), self._slots(), attempts)
        self._beaten = time.monotonic()
        self._first.set()

    async def _leave(self) -> None:
        await (await self._connected()).execute(_LEAVE, self._process)

    async def _connected(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            connection: Any = await asyncpg.connect(  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
                **self._arguments, server_settings={"application_name": f"callboard-{self._kind}-heartbeat"}
            )
            self._connection = connection
        return self._connection  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.terminate()

    def _note_failure(self, error: Exception) -> None:
        if not self._failing:
            name = type(error).__name__
            logger.warning("no heartbeat: %s: %s", name, error, extra={"action": "heartbeat_failed"})
        self._failing = True

    def _note_success(self) -> None:
        if self._failing:
            self._back = time.monotonic()
            logger.info("the heartbeat is back", extra={"action": "heartbeat_back"})
        self._failing = False
