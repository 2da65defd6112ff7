"""The client's parts without a network: frames out of bytes, the order of events, waits, errors."""

import asyncio
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.client import (
    BadRequest,
    Conflict,
    Event,
    EventId,
    EventsMissing,
    Gone,
    LimitExceeded,
    NotFound,
    Patience,
    ServerError,
    ServerLost,
    Unauthenticated,
    Unavailable,
    UnexpectedAnswer,
)
from callboard_runtime.client import retry as retry_module
from callboard_runtime.client.errors import problem
from callboard_runtime.client.retry import Tries
from callboard_runtime.client.sequence import EventSequence
from callboard_runtime.client.sse import MAX_FRAME, Frame, FrameParser
from callboard_runtime.client.transport import Transport


def event(epoch: int, seq: int) -> Event:
    return Event(EventId(epoch, seq), {"type": "CUSTOM", "n": seq})


def unlogged(kind: str) -> Event:
    return Event(None, {"type": kind})


# -- frames -----------------------------------------------------------------------------------------------------------

STREAM = (
    b": keep-alive\n\n"
    b'id: 1-1\ndata: {"type":"RUN_STARTED"}\n\n'
    b"retry: 1500\n\n"
    b'data: {"text":"\xc3\xa4: b"}\n\n'
    b"id: 1-2\r\ndata: one\r\ndata: two\r\n\r\n"
    b"id: 1-3\ndata: cut off"
)
FRAMES = [
    Frame("1-1", b'{"type":"RUN_STARTED"}'),
    Frame(retry=1500),
    Frame(data=b'{"text":"\xc3\xa4: b"}'),
    Frame("1-2", b"one\ntwo"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_frames_are_the_same_wherever_the_network_cuts(cuts: list[int]) -> None:
    parser = FrameParser()
    places = [0, *sorted(cuts), len(STREAM)]
    found = [frame for a, b in itertools.pairwise(places) for frame in parser.feed(STREAM[a:b])]
    assert found == FRAMES


def test_a_frame_that_never_ends_is_given_up() -> None:
    parser = FrameParser()
    with pytest.raises(UnexpectedAnswer, match="bytes"):
        list(parser.feed(b"x" * (MAX_FRAME + 1)))


# -- order ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 30), st.data())
def test_every_event_is_passed_on_once_over_any_number_of_connections(count: int, data: st.DataObject) -> None:
    """The server sends from anywhere before the cursor: what was seen is left out, what follows is not."""
    log = [event(1 + n // 10, 1 + n % 10) for n in range(count)]
    sequence, passed, sent = EventSequence(), list[Event](), 0
    while len(passed) < count:
        sequence.connected()
        start = data.draw(st.integers(0, len(passed)))
        end = data.draw(st.integers(len(passed) + 1, count))
        passed += [item for item in log[start:end] if sequence.is_new(item)]
        sent += end - start
    assert passed == log
    assert sequence.last == log[-1].id
    assert sequence.repeated == sent - count


@pytest.mark.parametrize(
    ("before", "received"),
    [(None, (1, 2)), ((1, 4), (1, 6)), ((1, 4), (2, 2)), ((3, 9), (5, 3))],
)
def test_a_gap_is_an_error_that_names_both_ends(before: tuple[int, int] | None, received: tuple[int, int]) -> None:
    cursor = EventId(*before) if before else None
    sequence = EventSequence(cursor)
    sequence.connected()
    with pytest.raises(EventsMissing) as caught:
        sequence.is_new(event(*received))
    assert caught.value.received == received
    assert caught.value.previous == cursor
    assert sequence.last == cursor


def test_a_new_epoch_may_begin_later_for_a_reader_who_got_its_own_closings() -> None:
    sequence = EventSequence(EventId(1, 4))
    sequence.connected()
    assert sequence.is_new(event(1, 5))
    assert sequence.is_new(unlogged("TEXT_MESSAGE_END"))
    assert sequence.is_new(event(2, 3))
    with pytest.raises(EventsMissing):
        sequence.is_new(event(2, 5))


def test_what_has_no_id_comes_once_although_no_cursor_names_it() -> None:
    """A run that never started is told from its row: both frames come again after a cut between them."""
    sequence = EventSequence()
    sequence.connected()
    assert sequence.is_new(unlogged("RUN_STARTED"))
    sequence.connected()
    assert not sequence.is_new(unlogged("RUN_STARTED"))
    assert sequence.is_new(unlogged("RUN_ERROR"))
    sequence.connected()
    assert not sequence.is_new(unlogged("RUN_STARTED"))
    assert sequence.is_new(unlogged("RUN_FINISHED")), "it is another event than the one in this place before"


# -- waits ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes in sleeps alone; what was slept."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(retry_module.asyncio, "sleep", sleep)
    monkeypatch.setattr(retry_module.time, "monotonic", lambda: sum(slept))
    return slept


def test_waits_grow_to_a_bound_and_end_with_the_error(clock: list[float]) -> None:
    async def scenario() -> None:
        tries = Tries(Patience(total=20, first=1, longest=4))
        while True:
            await tries.pause(ServerLost("gone"))

    with pytest.raises(ServerLost, match="gone"):
        asyncio.run(scenario())
    assert 16 <= sum(clock) <= 20
    for wait, window in zip(clock, (1, 2, 4, 4, 4, 4, 4, 4, 4), strict=False):
        assert window / 2 <= wait <= window


def test_retry_after_is_honoured_and_spread(clock: list[float]) -> None:
    async def scenario() -> None:
        for _ in range(3):
            tries = Tries(Patience(total=60, first=1))
            await tries.pause(ServerLost("gone"), 7)

    asyncio.run(scenario())
    assert all(7 < wait <= 7.5 for wait in clock)
    assert len(set(clock)) == 3


def test_a_wait_beyond_the_patience_is_not_begun(clock: list[float]) -> None:
    async def scenario() -> None:
        await Tries(Patience(total=5)).pause(ServerLost("gone"), 30)

    with pytest.raises(ServerLost):
        asyncio.run(scenario())
    assert clock == []


def test_progress_renews_the_patience(clock: list[float]) -> None:
    async def scenario() -> None:
        tries = Tries(Patience(total=5, first=1, longest=1))
        for _ in range(50):
            await tries.pause(ServerLost("gone"))
            tries.progress()

    asyncio.run(scenario())
    assert len(clock) == 50
    assert sum(clock) > 20


# -- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, BadRequest),
        (401, Unauthenticated),
        (403, Unauthenticated),
        (404, NotFound),
        (409, Conflict),
        (410, Gone),
        (413, BadRequest),
        (422, BadRequest),
        (429, LimitExceeded),
        (500, ServerError),
        (502, Unavailable),
        (503, Unavailable),
        (504, Unavailable),
    ],
)
def test_a_problem_is_an_error_of_its_kind(status: int, kind: type[Exception]) -> None:
    error = problem(status, {"code": "SOME_CODE", "detail": "what was wrong"}, "3")
    assert type(error) is kind
    assert (error.status, error.code, error.detail, error.retry_after) == (status, "SOME_CODE", "what was wrong", 3.0)
    assert "SOME_CODE" in str(error)
    assert "what was wrong" in str(error)


@pytest.mark.parametrize("body", [None, [], "x", {"message": "from a proxy"}])
def test_a_proxy_that_knows_no_problem_details_is_no_crash(body: object) -> None:
    error = problem(502, body, "Wed, 21 Oct 2026 07:28:00 GMT")
    assert (error.code, error.retry_after) == ("HTTP_502", None)


@pytest.mark.parametrize("url", ["", "example.com", "ftp://example.com", "/path", "https://"])
def test_a_base_url_must_be_one(url: str) -> None:
    with pytest.raises(ValueError, match="base_url"):
        Transport(url, None, Patience(), None)


# -- events -----------------------------------------------------------------------------------------------------------


def test_an_event_says_what_callers_ask_for() -> None:
    text = Event(EventId(1, 2), {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "hi"})
    arguments = Event(EventId(1, 3), {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": "{}"})
    asked = Event(
        EventId(1, 4), {"type": "RUN_FINISHED", "outcome": {"type": "interrupt", "interrupts": [{"id": "i"}]}}
    )
    left = Event(EventId(1, 4), {"type": "RUN_FINISHED", "outcome": {"type": "success", "pendingToolCallIds": ["c"]}})
    plain = Event(EventId(1, 4), {"type": "RUN_FINISHED"})
    assert (text.delta, arguments.delta) == ("hi", "")
    assert [e.closing for e in (text, asked, Event(None, {"type": "RUN_ERROR"}))] == [False, True, True]
    assert asked.interrupts == [{"id": "i"}]
    assert left.pending_tool_calls == ["c"]
    assert (plain.interrupts, plain.pending_tool_calls) == ([], [])
