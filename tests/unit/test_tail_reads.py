"""Readers who catch up at once: few exchanges with Redis, and one that hangs holds nobody up for long."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterable
from typing import Any
from uuid import UUID

import pytest
from redis.exceptions import TimeoutError as TookTooLong

from callboard_http.tail_reads import EXCHANGES, READERS_AT_ONCE, TailReads
from callboard_runtime.domain.event_batch import EventBatch, EventId, batch

POSITION = EventId(3, 7)
READERS = 1000


class Tail:
    """A store of tails that each have one event more; counts what it is asked, and hangs if told to."""

    def __init__(self, *, hangs: bool = False) -> None:
        self.exchanges: list[int] = []
        self.hangs, self.at_once = hangs, 0
        self.most_at_once = 0

    async def read_many(self, asked: Iterable[tuple[UUID, EventId]], most: int) -> list[EventBatch | None]:
        questions = list(asked)
        self.exchanges.append(len(questions))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        if self.hangs:
            raise TookTooLong
        return [batch(after.epoch, after.seq + 1, [{"type": "CUSTOM"}]) for _, after in questions]


def reads(tail: Tail) -> TailReads:
    store: Any = tail
    return TailReads(store)


async def test_many_readers_take_few_exchanges() -> None:
    tail = Tail()
    shared = reads(tail)
    found = await asyncio.gather(*(shared.after(uuid.uuid4(), POSITION) for _ in range(READERS)))
    assert all(page is not None and page.first_seq == 8 for page in found)
    assert sum(tail.exchanges) == READERS
    assert max(tail.exchanges) == READERS_AT_ONCE
    assert tail.most_at_once <= EXCHANGES


async def test_readers_of_one_session_share_an_answer() -> None:
    tail, session = Tail(), uuid.uuid4()
    shared = reads(tail)
    found = await asyncio.gather(*(shared.after(session, POSITION) for _ in range(READERS)))
    assert tail.exchanges == [1]
    assert all(page is found[0] for page in found)


async def test_a_redis_that_does_not_answer_is_waited_for_by_few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_http.tail_reads.PAUSE", 3600.0)
    tail = Tail(hangs=True)
    shared = reads(tail)
    asked = (shared.after(uuid.uuid4(), POSITION) for _ in range(READERS))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert len([one for one in found if isinstance(one, Exception)]) == READERS
    assert len(tail.exchanges) <= EXCHANGES


async def test_it_is_asked_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("callboard_http.tail_reads.PAUSE", 0.0)
    tail = Tail(hangs=True)
    shared = reads(tail)
    with pytest.raises(TookTooLong):
        await shared.after(uuid.uuid4(), POSITION)
    tail.hangs = False
    assert await shared.after(uuid.uuid4(), POSITION)
