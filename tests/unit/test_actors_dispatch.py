"""Wake-ups: in turns by user, never more than the workers can take, none forgotten."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_actors.dispatch import Capacity, Dispatcher, FairQueue, Wakeup
from callboard_runtime.errors import Unavailable


def wakeup(user: str, number: int = 0) -> Wakeup:
    run = uuid.uuid5(uuid.NAMESPACE_URL, f"{user}/{number}")
    return Wakeup(run, user, run, run, 1)


def free(slots: int) -> Capacity:
    return Capacity(total=slots, open=0, sent=0, actors=1)


class Sent:
    """Notes what is sent; fails while the broker is away, and waits while it holds its confirmations."""

    def __init__(self) -> None:
        self.users: list[str] = []
        self.ids: list[uuid.UUID] = []
        self.away = False
        self.confirms = asyncio.Event()
        self.confirms.set()

    async def __call__(self, sent: Wakeup) -> None:
        if self.away:
            raise Unavailable("the broker is away")
        self.users.append(sent.user_id)
        self.ids.append(sent.id)
        await self.confirms.wait()
        if self.away:
            raise Unavailable("the broker went away")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30))))
def test_the_queue_gives_each_once_and_every_user_in_turn(pushed: list[tuple[str, int]]) -> None:
    queue = FairQueue()
    for user, number in pushed:
        queue.push(wakeup(user, number))
    assert len(queue) == len(set(pushed))
    popped = [queue.pop() for _ in range(len(queue))]
    assert {item.id for item in popped} == {wakeup(*item).id for item in pushed}
    waiting = {user: len({number for u, number in pushed if u == user}) for user, _ in pushed}
    served = dict.fromkeys(waiting, 0)
    for item in popped:
        served[item.user_id] += 1
        behind = [user for user in waiting if served[user] < waiting[user]]
        assert all(served[item.user_id] <= served[user] + 1 for user in behind), "somebody was overtaken twice"


def test_a_users_own_are_in_order_of_arrival() -> None:
    queue = FairQueue()
    for number in range(5):
        queue.push(wakeup("a", number))
    queue.discard(wakeup("a", 2).id)
    assert [queue.pop() for _ in range(4)] == [wakeup("a", number) for number in (0, 1, 3, 4)]
    with pytest.raises(IndexError):
        queue.pop()


async def test_nothing_is_sent_before_a_worker_is_known() -> None:
    sent = Sent()
    dispatcher = Dispatcher(sent)
    dispatcher.offer([wakeup("a")])
    dispatcher.refresh(free(0))
    await dispatcher.settle()
    assert sent.users == []
    dispatcher.refresh(free(1))
    await dispatcher.settle()
    assert sent.users == ["a"]


async def test_with_known_slots_the_first_send_is_immediate() -> None:
    sent = Sent()
    dispatcher = Dispatcher(sent)
    dispatcher.refresh(free(5))
    dispatcher.offer([wakeup("a")])
    await asyncio.sleep(0)
    assert sent.users == ["a"]


async def test_never_more_than_slots_and_in_turns() -> None:
    sent = Sent()
    dispatcher = Dispatcher(sent)
    dispatcher.offer([wakeup("a", number) for number in range(50)])
    dispatcher.offer([wakeup("b", number) for number in range(3)])
    dispatcher.refresh(free(6))
    await dispatcher.settle()
    assert sent.users == ["a", "b", "a", "b", "a", "b"]
    dispatcher.released(2)
    await dispatcher.settle()
    assert sent.users[6:] == ["a", "a"]


async def test_what_was_sent_and_not_noted_yet_keeps_its_slot() -> None:
    sent = Sent()
    dispatcher = Dispatcher(sent)
    dispatcher.offer([wakeup("a", number) for number in range(10)])
    dispatcher.refresh(free(4))
    await dispatcher.settle()
    dispatcher.refresh(free(4))  # the database does not know of the four
    await dispatcher.settle()
    assert len(sent.users) == 4
    assert set(dispatcher.take_unwritten()) == set(sent.ids)
    assert dispatcher.take_unwritten() == []


async def test_what_the_broker_has_not_confirmed_yet_keeps_its_slot() -> None:
    sent = Sent()
    sent.confirms.clear()
    dispatcher = Dispatcher(sent)
    dispatcher.offer([wakeup("a", number) for number in range(10)])
    for _ in range(5):
        dispatcher.refresh(free(3))
        await asyncio.sleep(0)
    dispatcher.offer([wakeup("b")])
    assert sent.ids == [wakeup("a", number).id for number in range(3)]
    assert dispatcher.unnoted == set(sent.ids)
    sent.confirms.set()
    await dispatcher.settle()
    dispatcher.refresh(free(4))  # the three are counted once, though they were under way and now wait for their note
    await dispatcher.settle()
    assert len(sent.ids) == 4
    assert set(dispatcher.take_unwritten()) == set(sent.ids)
    assert dispatcher.unnoted == set()


async def test_slots_of_wakeups_that_the_broker_refused_late_are_free_again() -> None:
    sent = Sent()
    sent.confirms.clear()
    dispatcher = Dispatcher(sent)
    dispatcher.offer([wakeup("a", number) for number in range(2)])
    dispatcher.refresh(free(1))
    await asyncio.sleep(0)
    sent.away = True
    sent.confirms.set()
    await dispatcher.settle()
    assert dispatcher.unnoted == set()
    sent.away = False
    dispatcher.refresh(free(2))
    await dispatcher.settle()
    assert dispatcher.unnoted == {wakeup("a", number).id for number in range(2)}


async def test_a_broker_that_is_away_loses_nothing() -> None:
    sent = Sent()
    sent.away = True
    dispatcher = Dispatcher(sent)
    dispatcher.offer([wakeup("a", number) for number in range(3)])
    dispatcher.refresh(free(10))
    await dispatcher.settle()
    assert (len(dispatcher.waiting), dispatcher.take_unwritten()) == (3, [])
    sent.away = False
    dispatcher.refresh(free(10))
    await dispatcher.settle()
    assert len(sent.users) == 3


async def test_a_run_dispatched_again_is_sent_again() -> None:
    sent = Sent()
    dispatcher = Dispatcher(sent)
    dispatcher.refresh(free(10))
    for _ in range(2):
        dispatcher.offer([wakeup("a")])
        await dispatcher.settle()
    assert sent.ids == [wakeup("a").id] * 2


@given(st.integers(0, 500), st.integers(0, 500), st.integers(0, 500), st.integers(0, 9), st.integers(0, 50))
def test_the_share_never_exceeds_what_is_free(total: int, busy: int, sent: int, actors: int, unwritten: int) -> None:
    share = Capacity(total=total, open=busy, sent=sent, actors=actors).share(unwritten)
    assert share <= max(0, total - busy - sent) - unwritten
    if total - busy - sent > 0 and not unwritten:
        assert share > 0
