"""What everything is called: ids, partitions and lanes, and the numbers of events."""

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from callboard_runtime import errors
from callboard_runtime.domain import ids
from callboard_runtime.domain.event_batch import ORIGIN, EventBatch, EventId, batch, to_line

SESSION, RUN = ids.session_uuid("ana", "thread-1"), ids.run_uuid("ana", "run-1")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# -- ids --------------------------------------------------------------------------------------------------------------


def test_ids_never_change() -> None:
    # They are keys of stored rows and of queues: another value would lose every session.
    assert UUID("2a897f91-1a16-5d51-83ec-965c0ca285ab") == SESSION
    assert UUID("7a9c9fb4-fb8c-529a-a145-c88563631a61") == RUN
    assert ids.task_id(RUN, 1) == "dacf1f14-22f5-5055-8583-817faf2ee269"
    assert ids.task_id(RUN, 2) == "35dcf000-33a0-5255-8814-016f04874699"
    assert ids.partition_of(SESSION) == 14
    assert ids.lane_of(SESSION) == 229
    assert ids.PARTITIONS == 64


@settings(deadline=None)
@given(st.text(), st.text(), st.text(), st.text())
def test_names_of_two_users_never_meet(user: str, thread: str, other: str, name: str) -> None:
    same = f"{user}\n{thread}" == f"{other}\n{name}"
    assert (ids.session_uuid(user, thread) == ids.session_uuid(other, name)) == same
    assert ids.session_uuid(user, thread) != ids.run_uuid(user, thread)


@settings(deadline=None)
@given(st.uuids())
def test_partitions_and_lanes_are_in_range(session: UUID) -> None:
    assert 0 <= ids.partition_of(session) < ids.PARTITIONS
    assert 0 <= ids.lane_of(session) < ids.LANES


@pytest.mark.parametrize("text", ["a", "A-b_c.d:e~f@g/h+i=j", "x" * 200])
def test_a_client_id(text: str) -> None:
    assert TypeAdapter(ids.ClientId).validate_python(text) == text


@pytest.mark.parametrize("text", ["", "x" * 201, "a b", "a\n", "ä", "a\x00", "a#b"])
def test_no_client_id(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ids.ClientId).validate_python(text)


@pytest.mark.parametrize("text", ["", "x" * 201, "a\nb", "a\x00", "a\x7f"])
def test_no_user_id(text: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(ids.UserId).validate_python(text)


# -- event ids and batches --------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.integers(0, 10**15), st.integers(0, 10**15))
def test_an_event_id_is_read_back(epoch: int, seq: int) -> None:
    assert EventId.parse(str(EventId(epoch, seq))) == EventId(epoch, seq)


@settings(deadline=None)
@given(st.tuples(st.integers(0, 50), st.integers(0, 50)), st.tuples(st.integers(0, 50), st.integers(0, 50)))
def test_event_ids_are_ordered_as_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    assert (EventId(*one) < EventId(*other)) == (one < other)
    assert EventId(*one) >= ORIGIN


def test_event_ids_are_not_ordered_as_text() -> None:
    assert EventId.parse("9-2") < EventId.parse("10-1") < EventId.parse("10-10")


@pytest.mark.parametrize(
    "text", ["", "-", "1", "1-", "-1", "a-1", "1-b", "1-2-3", "1--2", "+1-2", "١-٢", "1_0-2", "1-2" + "0" * 40]
)
def test_no_event_id(text: str) -> None:
    with pytest.raises(errors.InvalidInput, match="<epoch>-<seq>"):
        EventId.parse(text)


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.dictionaries(st.text(), JSON, max_size=2), max_size=5))
def test_a_batch_numbers_its_events(epoch: int, first: int, events: list[dict[str, Any]]) -> None:
    made = batch(epoch, first, events)
    assert [event for _, event in made.events()] == events
    assert [event_id for event_id, _ in made.events()] == [EventId(epoch, first + i) for i in range(len(events))]
    assert made.last_seq == first + len(events) - 1
    assert not [line for line in made.lines if "\n" in line or "\r" in line]


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(0, 5), st.integers(0, 12))
def test_the_rest_of_a_batch(first: int, count: int, seq: int) -> None:
    made = batch(3, first, [{"n": n} for n in range(first, first + count)])
    rest = made.after(seq)
    assert [event["n"] for _, event in rest.events()] == [n for n in range(first, first + count) if n > seq]
    assert [event_id.seq for event_id, _ in rest.events()] == [event["n"] for _, event in rest.events()]


def test_one_line_of_json_per_event() -> None:
    assert to_line({"a": "x\ny\u2028"}).splitlines()[0].startswith('{"a":"x\\ny')
    assert EventBatch(epoch=1, first_seq=1, lines=()).last_seq == 0
