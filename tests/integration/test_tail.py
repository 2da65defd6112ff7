"""The tail against a real Redis: every outcome of an append, fences, losses, and a model that all of it must equal."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisGone
from redis.exceptions import ResponseError

from callboard_runtime.domain.event_batch import ORIGIN, EventBatch, EventId
from callboard_runtime.stream.tail import TailResult, TailStore


@pytest.fixture
async def tail(redis_url: str, redis_prefix: str) -> AsyncIterator[TailStore]:
    store = TailStore.from_url(redis_url, redis_prefix)
    yield store
    await store.close()


def lines(epoch: int, first: int, last: int) -> EventBatch:
    return EventBatch(epoch=epoch, first_seq=first, lines=tuple(f"{epoch}/{seq}" for seq in range(first, last + 1)))


async def test_append_creates_extends_and_skips_what_is_there(tail: TailStore) -> None:
    session = uuid.uuid4()
    assert await tail.append(session, lines(3, 1, 2), committed=0, create=True) is TailResult.OK
    assert await tail.append(session, lines(3, 3, 5), committed=0, create=False) is TailResult.OK
    assert await tail.append(session, lines(3, 3, 5), committed=0, create=False) is TailResult.OK
    assert await tail.append(session, lines(3, 4, 6), committed=0, create=False) is TailResult.OK
    assert await tail.read(session, ORIGIN, 3) == lines(3, 1, 6)
    assert await tail.read(session, EventId(3, 4), 3) == lines(3, 5, 6)
    assert await tail.read(session, EventId(3, 6), 3) is None
    assert await tail.read(session, EventId(2, 9), 3) == lines(3, 1, 6)


async def test_no_stream_is_empty_until_it_may_be_created(tail: TailStore) -> None:
    session = uuid.uuid4()
    assert await tail.append(session, lines(3, 1, 2), committed=0, create=False) is TailResult.EMPTY
    assert await tail.append(session, lines(3, 1, 2), committed=0, create=True) is TailResult.OK


async def test_a_hole_is_behind_unless_the_log_has_what_is_missing(tail: TailStore) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(3, 1, 2), committed=0, create=True)
    assert await tail.append(session, lines(3, 4, 4), committed=0, create=False) is TailResult.BEHIND
    assert await tail.append(session, lines(3, 4, 4), committed=2, create=True) is TailResult.BEHIND
    assert await tail.append(session, lines(3, 3, 4), committed=2, create=False) is TailResult.OK
    assert await tail.append(session, lines(3, 8, 9), committed=7, create=False) is TailResult.OK
    assert await tail.read(session, ORIGIN, 3) == lines(3, 1, 4)
    assert await tail.read(session, EventId(3, 4), 3) == lines(3, 8, 9)


async def test_a_new_stream_may_not_begin_behind_a_hole(tail: TailStore) -> None:
    session = uuid.uuid4()
    assert await tail.append(session, lines(3, 5, 6), committed=3, create=True) is TailResult.BEHIND
    assert await tail.append(session, lines(3, 5, 6), committed=4, create=True) is TailResult.OK


async def test_a_zombie_is_fenced_before_the_new_owner_has_sent_anything(tail: TailStore) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(4, 1, 2), committed=0, create=True)
    await tail.fence(session, 5)
    for create in (False, True):
        assert await tail.append(session, lines(4, 3, 3), committed=2, create=create) is TailResult.FENCED
    assert await tail.append(session, lines(5, 1, 1), committed=0, create=False) is TailResult.OK
    assert await tail.append(session, lines(4, 3, 3), committed=9, create=True) is TailResult.FENCED
    assert await tail.read(session, ORIGIN, 5) == lines(5, 1, 1)


async def test_fence_returns_what_the_old_owner_sent_and_repeats_itself(tail: TailStore) -> None:
    session = uuid.uuid4()
    assert await tail.fence(session, 4) is None
    await tail.append(session, lines(4, 1, 700), committed=0, create=False)
    assert await tail.fence(session, 5) == lines(4, 1, 700)
    assert await tail.fence(session, 5) == lines(4, 1, 700)
    assert await tail.fence(session, 6) is None, "epoch 5 sent nothing"


async def test_fence_returns_the_newest_lines_back_to_the_first_hole(tail: TailStore) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(4, 1, 3), committed=0, create=True)
    await tail.append(session, lines(4, 21, 30), committed=20, create=False)
    assert await tail.fence(session, 5) == lines(4, 21, 30)


async def test_an_old_fence_after_a_newer_one_changes_nothing(tail: TailStore) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(4, 1, 2), committed=0, create=True)
    await tail.fence(session, 6)
    assert await tail.fence(session, 5) == lines(4, 1, 2)
    assert await tail.append(session, lines(5, 1, 1), committed=0, create=True) is TailResult.FENCED


async def test_after_a_flush_only_the_confirmed_owner_recreates_the_stream(tail: TailStore, redis_url: str) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(4, 1, 8), committed=0, create=True)
    await tail.append(session, lines(5, 1, 3), committed=0, create=True)
    await tail.delete(session)
    assert await tail.append(session, lines(4, 9, 9), committed=8, create=False) is TailResult.EMPTY
    assert await tail.append(session, lines(5, 4, 4), committed=0, create=True) is TailResult.BEHIND
    assert await tail.append(session, lines(5, 1, 4), committed=0, create=True) is TailResult.OK
    assert await tail.append(session, lines(4, 9, 9), committed=8, create=True) is TailResult.FENCED


async def test_a_stream_that_lags_behind_an_epoch_is_not_continued_without_a_commit(tail: TailStore) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(4, 1, 8), committed=0, create=True)
    assert await tail.append(session, lines(5, 1, 1), committed=0, create=False) is TailResult.EMPTY
    assert await tail.append(session, lines(5, 1, 1), committed=0, create=True) is TailResult.OK
    assert await tail.read(session, ORIGIN, 4) is None, "an older epoch is in the log by then"


async def test_two_appends_at_once_leave_one_order(tail: TailStore) -> None:
    session = uuid.uuid4()
    await tail.append(session, lines(2, 1, 1), committed=0, create=True)
    done = await asyncio.gather(
        *(tail.append(session, lines(2, 2, 2 + n), committed=0, create=False) for n in range(40))
    )
    assert set(done) == {TailResult.OK}
    assert await tail.read(session, ORIGIN, 2) == lines(2, 1, 41)


async def test_errors_of_redis_come_through_without_long_waits(tail: TailStore) -> None:
    away = TailStore.from_url("redis://127.0.0.1:1/0", "nobody")
    with pytest.raises(RedisGone):
        await away.append(uuid.uuid4(), lines(1, 1, 1), committed=0, create=True)
    await away.close()


async def test_many_sessions_at_once_get_their_own_answers(tail: TailStore) -> None:
    sessions = [uuid.uuid4() for _ in range(600)]
    created = [n % 2 == 0 for n in range(600)]
    done = await asyncio.gather(
        *(
            tail.append(session, lines(2, 1, 1), committed=0, create=create)
            for session, create in zip(sessions, created, strict=True)
        )
    )
    assert [result is TailResult.OK for result in done] == created
    assert {result for result, create in zip(done, created, strict=True) if not create} == {TailResult.EMPTY}


async def test_a_redis_that_forgot_the_scripts_is_told_again(tail: TailStore, redis_url: str) -> None:
    session = uuid.uuid4()
    assert await tail.append(session, lines(2, 1, 1), committed=0, create=True) is TailResult.OK
    async with Redis.from_url(redis_url) as admin:
        await admin.script_flush()
    assert await tail.append(session, lines(2, 2, 2), committed=0, create=False) is TailResult.OK
    assert await tail.read(session, ORIGIN, 2) == lines(2, 1, 2)
    async with Redis.from_url(redis_url) as admin:
        await admin.script_flush()
    assert await tail.fence(session, 3) == lines(2, 1, 2)


async def test_one_call_that_fails_does_not_harm_its_neighbours(tail: TailStore, redis_url: str) -> None:
    good, bad = uuid.uuid4(), uuid.uuid4()
    async with Redis.from_url(redis_url) as admin:
        await admin.set(tail.key(bad), "not a stream")
    done = await asyncio.gather(
        *(tail.append(session, lines(2, 1, 1), committed=0, create=True) for session in (bad, good)),
        return_exceptions=True,
    )
    assert isinstance(done[0], ResponseError)
    assert done[1] is TailResult.OK


async def test_a_caller_that_gives_up_does_not_harm_its_neighbours(tail: TailStore) -> None:
    first, second = uuid.uuid4(), uuid.uuid4()
    giving_up = asyncio.create_task(tail.append(first, lines(2, 1, 1), committed=0, create=True))
    staying = asyncio.create_task(tail.append(second, lines(2, 1, 1), committed=0, create=True))
    await asyncio.sleep(0)
    giving_up.cancel()
    assert await staying is TailResult.OK
    with pytest.raises(asyncio.CancelledError):
        await giving_up


@dataclass
class Model:
    """What the scripts must do, in the plainest words."""

    fence: int = -1
    entries: dict[EventId, str] = field(default_factory=dict[EventId, str])

    def newest(self) -> EventId | None:
        ids = [*self.entries, *([EventId(self.fence, 0)] if self.fence >= 0 else [])]
        return max(ids, default=None)

    def append(self, batch: EventBatch, committed: int, create: bool) -> TailResult:
        newest = self.newest()
        if newest and newest.epoch > batch.epoch:
            return TailResult.FENCED
        mine = newest is not None and newest.epoch == batch.epoch
        if not mine and not create:
            return TailResult.EMPTY
        last = newest.seq if mine and newest else 0
        if batch.first_seq > max(last, committed) + 1:
            return TailResult.BEHIND
        if not mine:
            self.entries, self.fence = {}, -1
        for offset, line in enumerate(batch.lines):
            if batch.first_seq + offset > last:
                self.entries[EventId(batch.epoch, batch.first_seq + offset)] = line
        return TailResult.OK


actions = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.integers(1, 4),
            st.integers(1, 6),
            st.integers(1, 3),
            st.integers(0, 6),
            st.booleans(),
        ),
        st.tuples(st.just("fence"), st.integers(1, 5)),
        st.tuples(st.just("flush")),
    ),
    min_size=1,
    max_size=14,
)


@given(actions)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_equals_the_model(redis_url: str, redis_prefix: str, steps: list[tuple[object, ...]]) -> None:
    asyncio.run(_compare(redis_url, redis_prefix, steps))


async def _compare(redis_url: str, redis_prefix: str, steps: list[tuple[object, ...]]) -> None:
    store, model, session = TailStore.from_url(redis_url, redis_prefix), Model(), uuid.uuid4()
    try:
        for step in steps:
            match step:
                case ("append", int(epoch), int(first), int(count), int(committed), bool(create)):
                    batch = lines(epoch, first, first + count - 1)
                    got = await store.append(session, batch, committed=committed, create=create)
                    assert got is model.append(batch, committed, create), step
                case ("fence", int(epoch)):
                    await store.fence(session, epoch)
                    newest = model.newest()
                    if newest is None or newest.epoch < epoch:
                        model.fence = epoch
                case _:
                    await store.delete(session)
                    model = Model()
            for epoch in range(1, 6):
                await _same_entries(store, model, session, epoch)
    finally:
        await store.close()


async def _same_entries(store: TailStore, model: Model, session: uuid.UUID, epoch: int) -> None:
    after, found = EventId(epoch, 0), {}
    while (batch := await store.read(session, after, epoch)) is not None:
        found |= {EventId(epoch, batch.first_seq + n): line for n, line in enumerate(batch.lines)}
        after = EventId(epoch, batch.last_seq)
    assert found == {key: line for key, line in model.entries.items() if key.epoch == epoch}
