"""The streams that are open in this process: how many at most, and how they end when it does."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Generator, Iterable
from typing import Protocol

from callboard_runtime.errors import LimitExceeded, Unavailable
from callboard_runtime.settings import HttpSettings

RETRY_USER = 5  # seconds a user with too many streams is told to wait
LAST_WORD = 1.0  # seconds for streams to say `retry:` after the drain is over


class Stoppable(Protocol):
    """What writes a stream: a reader, or what tells a past that ends by itself."""

    def stop(self) -> None: ...


class _Telling:
    def stop(self) -> None:
        """It is at its end soon anyway."""


class OpenStreams:
    """Counts streams per process and user, and knows what writes them."""

    def __init__(self, settings: HttpSettings) -> None:
        self._settings = settings
        self._users: Counter[str] = Counter()
        self._readers: dict[Stoppable, bool] = {}  # reader -> whether its client comes back with a cursor
        self._none = asyncio.Event()
        self.draining = False

    def __len__(self) -> int:
        return len(self._readers)

    def add(self, reader: Stoppable, user_id: str, *, resumable: bool) -> None:
        """Count the reader until `remove`; raises Unavailable or LimitExceeded before anything is sent."""
        self._check(user_id)
        self._readers[reader] = resumable
        self._users[user_id] += 1
        self._none.clear()

    def remove(self, reader: Stoppable, user_id: str) -> None:
        del self._readers[reader]
        self._users[user_id] -= 1
        if not self._users[user_id]:
            del self._users[user_id]
        if not self._readers:
            self._none.set()

    @contextlib.contextmanager
    def telling(self, user_id: str) -> Generator[None]:
        """Count what reads and tells a past as a stream: it may hold a whole conversation. Raises as `add` does."""
        told = _Telling()
        self.add(told, user_id, resumable=False)
        try:
            yield
        finally:
            self.remove(told, user_id)

    async def drain(self) -> None:
        """Send readers with a cursor to another front at once; let the others reach their end, for a while."""
        self.draining = True
        self._stop(reader for reader, resumable in self._readers.items() if resumable)
        await self._until_none(self._settings.drain)
        self._stop(self._readers)
        await self._until_none(LAST_WORD)

    def _check(self, user_id: str) -> None:
        if self.draining or len(self._readers) >= self._settings.max_streams:
            raise Unavailable("this front takes no more streams", retry_after=1)
        if self._users[user_id] >= self._settings.max_streams_per_user:
            limit = self._settings.max_streams_per_user
            raise LimitExceeded(f"at most {limit} event streams may be open at once", retry_after=RETRY_USER)

    def _stop(self, readers: Iterable[Stoppable]) -> None:
        for reader in list(readers):
            reader.stop()

    async def _until_none(self, seconds: float) -> None:
        if self._readers:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._none.wait(), seconds)
