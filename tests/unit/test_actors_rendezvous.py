"""Rendezvous hashing and the decision to hand partitions over, without broker or clock."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from callboard_actors.partitions import LONGEST_WAIT, Handovers, assign, favourite
from callboard_runtime.domain.ids import PARTITIONS

names = st.frozensets(st.text(min_size=1, max_size=20), min_size=1, max_size=8)


def test_nobody_lives_nobody_is_favourite() -> None:
    assert favourite(0, frozenset()) is None
    assert assign(frozenset()) == (None,) * PARTITIONS


@given(names)
def test_every_partition_has_one_living_favourite(processes: frozenset[str]) -> None:
    assigned = assign(processes)
    assert len(assigned) == PARTITIONS
    assert set(assigned) <= processes


@given(names, st.text(min_size=1, max_size=20))
def test_a_newcomer_takes_partitions_and_moves_no_other(processes: frozenset[str], newcomer: str) -> None:
    before, after = assign(processes), assign(processes | {newcomer})
    assert all(now in (was, newcomer) for was, now in zip(before, after, strict=True))


@given(names)
def test_a_leaver_moves_only_its_own(processes: frozenset[str]) -> None:
    leaver = min(processes)
    before, after = assign(processes), assign(processes - {leaver})
    assert all(was == now for was, now in zip(before, after, strict=True) if was != leaver)


def test_the_load_is_shared() -> None:
    assigned = assign(frozenset({"a", "b", "c", "d"}))
    assert all(5 <= assigned.count(name) <= 30 for name in "abcd")


def _others(process: str, members: frozenset[str]) -> list[int]:
    return [number for number, name in enumerate(assign(members)) if name != process]


def test_alone_it_gives_nothing_up() -> None:
    handovers = Handovers("a", 3)
    assert handovers.due(frozenset({"a"}), frozenset(range(PARTITIONS)), 0) == []
    assert handovers.due(frozenset({"a"}), frozenset(range(PARTITIONS)), 1000) == []


def test_a_newcomers_partitions_are_given_up_after_a_while_and_once() -> None:
    both, handovers = frozenset({"a", "b"}), Handovers("a", 3)
    handovers.due(frozenset({"a"}), frozenset(), 0)
    assert handovers.due(both, frozenset(), 10) == []
    assert handovers.due(both, frozenset(), 12.9) == []
    assert handovers.due(both, frozenset(), 13) == _others("a", both)
    assert handovers.due(both, frozenset(), 1000) == []


def test_a_favourite_that_dies_meanwhile_is_not_waited_for() -> None:
    handovers = Handovers("a", 3)
    handovers.due(frozenset({"a"}), frozenset(), 0)
    handovers.due(frozenset({"a", "b"}), frozenset(), 1)
    assert handovers.due(frozenset({"a"}), frozenset(), 2) == []
    assert handovers.due(frozenset({"a"}), frozenset(range(PARTITIONS)), 100) == []


def test_a_partition_whose_commands_still_arrive_is_given_up_again_and_ever_more_seldom() -> None:
    both, handovers = frozenset({"a", "b"}), Handovers("a", 3)
    foreign = _others("a", both)[0]
    moments = [now for now in range(600) if handovers.due(both, frozenset({foreign}), now)]
    gaps = [later - earlier for earlier, later in pairwise(moments)]
    assert moments[0] == 3
    assert gaps[0] > 3
    assert gaps == sorted(gaps)
    assert gaps[-1] <= LONGEST_WAIT + 1


def test_who_is_favourite_of_nothing_new_moves_nothing() -> None:
    handovers, before = Handovers("a", 3), frozenset({"a", "b"})
    after = before | {"c"}
    handovers.due(before, frozenset(), 0)
    moved = [n for n, (was, now) in enumerate(zip(assign(before), assign(after), strict=True)) if was != now]
    handovers.due(after, frozenset(), 1)
    assert handovers.due(after, frozenset(), 10) == moved
