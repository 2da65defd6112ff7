"""How often Redis is asked while it is away: less and less, however many runs ask at once."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator

import pytest

from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.stream import guard as module
from callboard_runtime.stream.guard import FIRST_PAUSE, LONGEST_PAUSE, GuardedTail
from callboard_runtime.stream.tail import TailResult, TailStore

BATCH = EventBatch(epoch=1, first_seq=1, lines=("{}",))


class Counted(TailStore):
    """Where nobody listens, until it is `back`; counts who tried."""

    tried, back = 0, False

    async def append(self, session_id: uuid.UUID, batch: EventBatch, *, committed: int, create: bool) -> TailResult:
        self.tried += 1
        if self.back:
            return TailResult.OK
        return await super().append(session_id, batch, committed=committed, create=create)


class Guarded:
    """A guarded tail on a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = Counted.from_url("redis://127.0.0.1:1/0", "nobody")
        self.now = 1000.0
        self._tail = GuardedTail(self.store)
        monkeypatch.setattr(module, "monotonic", lambda: self.now)

    async def append(self, runs: int = 1) -> int:
        """So many runs append at the same moment; how many of them tried."""
        before = self.store.tried
        asked = (self._tail.append(uuid.uuid4(), BATCH, committed=0, create=True) for _ in range(runs))
        await asyncio.gather(*asked)
        return self.store.tried - before


@pytest.fixture
async def guarded(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Guarded]:
    guarded = Guarded(monkeypatch)
    yield guarded
    await guarded.store.close()


async def test_runs_that_fail_together_are_one_failure(guarded: Guarded) -> None:
    assert await guarded.append(runs=5) == 5
    for pause in (FIRST_PAUSE, 2 * FIRST_PAUSE):
        guarded.now += 0.9 * pause
        assert await guarded.append(runs=5) == 0
        guarded.now += 0.2 * pause
        assert await guarded.append(runs=5) == 5


async def test_the_pauses_grow_up_to_a_limit(guarded: Guarded) -> None:
    for _ in range(12):
        assert await guarded.append() == 1
        guarded.now += LONGEST_PAUSE
    await guarded.append()
    guarded.now += 0.9 * LONGEST_PAUSE
    assert await guarded.append() == 0


async def test_a_failure_after_a_success_is_the_first_again(guarded: Guarded) -> None:
    await guarded.append()
    guarded.now += FIRST_PAUSE
    await guarded.append()
    guarded.now += 2 * FIRST_PAUSE
    guarded.store.back = True
    assert await guarded.append() == 1
    guarded.store.back = False
    assert await guarded.append(runs=3) == 3, "nothing pauses while Redis is there"
    assert await guarded.append() == 0
    guarded.now += FIRST_PAUSE
    assert await guarded.append() == 1
