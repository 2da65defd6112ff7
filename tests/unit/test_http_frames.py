"""SSE frames, chunk arithmetic, and what older clients get instead of the 1.0 form."""

from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_http.chunk import Chunk
from callboard_http.downgrade import downgraded, speaks_current
from callboard_http.withdrawal import Memory, Shown, closings, without_leading_closings
from callboard_runtime.domain.event_batch import EventBatch, EventId, to_line


def chunk(epoch: int, first: int, *events: dict, closing: bool = False) -> Chunk:
    return Chunk(epoch, first, "\n".join(to_line(event) for event in events).encode(), closing)


def text(delta: str) -> dict:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": delta}


def test_a_frame_is_id_and_data_framed_by_line_feeds_alone():
    frames = chunk(3, 9, text("a"), text("b\r\nc\u2028")).frames
    assert frames == (
        b'id: 3-9\ndata: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"a"}\n\n'
        b'id: 3-10\ndata: {"type":"TEXT_MESSAGE_CONTENT","messageId":"m","delta":"b\\r\\nc\xe2\x80\xa8"}\n\n'
    )
    assert b"\r" not in frames


def test_unlogged_events_have_no_id():
    assert (
        Chunk.unlogged({"type": "RUN_ERROR", "message": "x"}).frames == b'data: {"type":"RUN_ERROR","message":"x"}\n\n'
    )


@given(st.integers(1, 9), st.lists(st.text(max_size=4), min_size=1, max_size=8), st.data())
def test_what_comes_after_a_seq_is_the_rest(first, deltas, data):
    whole = chunk(2, first, *map(text, deltas))
    assert whole.last == EventId(2, first + len(deltas) - 1)
    seq = data.draw(st.integers(0, whole.last.seq - 1))
    rest = whole.after(seq)
    skipped = max(0, seq + 1 - first)
    assert rest.last == whole.last
    assert rest.first == first + skipped
    assert rest.events() == whole.events()[skipped:]


def test_a_tail_batch_ends_the_leg_only_by_a_closing_event():
    def batch(*events: dict) -> EventBatch:
        return EventBatch(epoch=1, first_seq=1, lines=tuple(map(to_line, events)))

    finished = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
    assert Chunk.of_batch(batch(text("x"), finished)).closing
    assert Chunk.of_batch(batch({"type": "RUN_ERROR", "message": "m"})).closing
    assert not Chunk.of_batch(batch(text('"type":"RUN_FINISHED"'))).closing
    assert not Chunk.of_batch(batch({"type": "CUSTOM", "name": "n", "value": finished})).closing


def test_a_leg_opens_with_run_started_alone():
    assert chunk(1, 1, {"type": "RUN_STARTED", "threadId": "t", "runId": "r"}, text("x")).opens_leg
    assert not chunk(1, 1, text("x"), {"type": "RUN_STARTED"}).opens_leg
    assert not chunk(1, 1, {"type": "CUSTOM", "value": {"type": "RUN_STARTED"}}).opens_leg


# -- older clients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "current"),
    [
        ("1.0", True),
        ("1.3", True),
        ("2", True),
        ("0.9", False),
        (None, False),
        ("", False),
        ("x", False),
        ("²", False),
        ("9" * 5000, True),
        ("00", False),
    ],
)
def test_a_client_that_names_no_version_is_an_older_one(version, current):
    assert speaks_current(version) is current


def one(event: dict) -> dict:
    before = chunk(4, 7, event)
    after = downgraded(before)
    assert after.last == before.last
    return after.events()[0]


def test_a_cancelled_outcome_becomes_the_error_that_means_abort():
    event = {
        "type": "RUN_FINISHED",
        "threadId": "t",
        "runId": "r",
        "outcome": {"type": "cancelled"},
        "usage": [{"model": "m"}],
    }
    assert one(event) == {
        "type": "RUN_ERROR",
        "message": "The run was cancelled.",
        "code": "abort",
        "usage": [{"model": "m"}],
    }


def test_pending_tool_call_ids_and_expiry_are_left_out():
    base = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}
    assert one(base | {"outcome": {"type": "success", "pendingToolCallIds": ["c"]}})["outcome"] == {"type": "success"}
    interrupt = {"id": "i", "reason": "x", "toolCallId": "c"}
    given = {"type": "interrupt", "interrupts": [interrupt | {"expiresAt": "2030-01-01T00:00:00Z"}]}
    assert one(base | {"outcome": given})["outcome"] == {"type": "interrupt", "interrupts": [interrupt]}
    assert one(base) == base


def test_tool_content_in_parts_becomes_text():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert one({"type": "TOOL_CALL_RESULT", "messageId": "m", "toolCallId": "c", "content": parts})["content"] == "ab"
    image = [{"type": "image", "source": {"type": "url", "value": "u"}}]
    assert orjson.loads(one({"type": "TOOL_CALL_RESULT", "toolCallId": "c", "content": image})["content"]) == image
    snapshot = {
        "type": "MESSAGES_SNAPSHOT",
        "messages": [{"id": "t", "role": "tool", "toolCallId": "c", "content": parts}],
    }
    assert one(snapshot)["messages"][0]["content"] == "ab"


def test_everything_else_passes_untouched_and_unparsed():
    plain = chunk(1, 1, text("RUN_FINISHED"), {"type": "STATE_SNAPSHOT", "snapshot": {}})
    assert downgraded(plain) is plain


def test_ids_stay_and_only_the_frame_in_question_changes():
    before = chunk(2, 5, text("a"), {"type": "RUN_FINISHED", "outcome": {"type": "cancelled"}}, closing=True)
    after = downgraded(before)
    assert (after.epoch, after.first, after.closing) == (2, 5, True)
    assert after.body.split(b"\n")[0] == before.body.split(b"\n")[0]


# -- withdrawal -------------------------------------------------------------------------------------------------------


def test_a_reader_gets_closings_of_what_it_has_open_and_not_of_what_it_saw_closed():
    log = chunk(
        4,
        1,
        {"type": "RUN_STARTED"},
        {"type": "STEP_STARTED", "stepName": "s"},
        {"type": "TEXT_MESSAGE_START", "messageId": "m"},
    )
    lost = chunk(
        4,
        4,
        {"type": "TEXT_MESSAGE_END", "messageId": "m"},
        {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "f"},
    )
    own = closings([log], [lost])
    assert own is not None
    assert not own.logged
    assert own.events() == [{"type": "TOOL_CALL_END", "toolCallId": "c"}, {"type": "STEP_FINISHED", "stepName": "s"}]
    assert closings([chunk(4, 1, {"type": "RUN_STARTED"})], [chunk(4, 2, text(""))]) is None


def test_the_closings_that_an_epoch_begins_with_are_skipped_and_no_others():
    end = {"type": "TEXT_MESSAGE_END", "messageId": "m"}
    snapshot = {"type": "MESSAGES_SNAPSHOT", "messages": []}
    rest = without_leading_closings([chunk(5, 1, end), chunk(5, 2, end, snapshot, end), chunk(5, 5, text("x"))])
    assert [(c.first, [e["type"] for e in c.events()]) for c in rest] == [
        (3, ["MESSAGES_SNAPSHOT", "TEXT_MESSAGE_END"]),
        (5, ["TEXT_MESSAGE_CONTENT"]),
    ]
    assert without_leading_closings([chunk(5, 1, end)]) == []


def test_what_was_shown_is_forgotten_as_it_is_committed():
    shown = Shown()
    for first in (1, 3):
        shown.add(chunk(2, first, text("a"), text("b")))
    shown.committed(EventId(2, 3))
    assert [(c.first, c.last.seq) for c in shown.chunks] == [(3, 4)]
    shown.committed(EventId(2, 4))
    assert (shown.chunks, shown.held) == ([], 0)


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), max_size=8), st.integers(1, 12), st.integers(1, 12))
def test_memory_tells_all_that_was_shown_between_two_events_or_nothing(
    pieces: list[tuple[int, int]], after: int, upto: int
):
    memory, session = Memory(), uuid4()
    for first, size in pieces:
        memory.keep(session, [chunk(3, first, *(text(str(seq)) for seq in range(first, first + size)))])
    wanted = list(range(after + 1, upto + 1))
    known = {seq for first, size in pieces for seq in range(first, first + size)}
    found = memory.between(session, EventId(3, after), EventId(3, upto))
    if found is None:
        assert set(wanted) - known
    else:
        assert [int(event["delta"]) for piece in found for event in piece.events()] == wanted
    assert after >= upto or memory.between(uuid4(), EventId(3, after), EventId(3, upto)) is None
    assert after >= upto or memory.between(session, EventId(2, after), EventId(2, upto)) is None


def test_memory_is_bounded_and_forgets_the_session_heard_of_longest_ago():
    first, second, third = uuid4(), uuid4(), uuid4()
    shown = [chunk(3, 1, text("x" * 100))]
    memory = Memory(limit=2 * len(shown[0].body))
    for session in (first, second, first, first, third):  # the same again takes no room
        memory.keep(session, shown)
    kept = [memory.between(session, EventId(3, 0), EventId(3, 1)) for session in (first, second, third)]
    assert kept == [shown, None, shown]
