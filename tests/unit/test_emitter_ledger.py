"""The ledger of an epoch's events: numbers, joined deltas, and what is kept until it is both sent and committed."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.domain.event_batch import AguiEvent, EventBatch
from callboard_runtime.stream.ledger import EventLedger


def opening(count: int = 1, epoch: int = 3) -> EventBatch:
    return EventBatch(epoch=epoch, first_seq=1, lines=tuple('{"type":"RUN_STARTED"}' for _ in range(count)))


def text(message: str, delta: str) -> AguiEvent:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": message, "delta": delta}


def lines(batch: EventBatch | None) -> list[AguiEvent]:
    return [orjson.loads(line) for line in batch.lines] if batch else []


def test_the_opening_is_committed_but_not_sent() -> None:
    ledger = EventLedger(opening(2))
    assert ledger.since(ledger.committed) is None
    assert ledger.since(ledger.sent) == opening(2)
    assert ledger.unsent


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("TEXT_MESSAGE_CONTENT", "messageId"),
        ("REASONING_MESSAGE_CONTENT", "messageId"),
        ("TOOL_CALL_ARGS", "toolCallId"),
    ],
)
def test_deltas_of_one_part_are_joined(kind: str, key: str) -> None:
    ledger = EventLedger(opening())
    for delta in ("a", "b", "c"):
        ledger.add({"type": kind, key: "1", "delta": delta})
    ledger.add({"type": kind, key: "2", "delta": "d"})
    ledger.seal()
    assert lines(ledger.since(1)) == [
        {"type": kind, key: "1", "delta": "abc"},
        {"type": kind, key: "2", "delta": "d"},
    ]


def test_a_long_delta_takes_no_more() -> None:
    ledger = EventLedger(opening())
    for delta in ("a" * 8191, "b", "c", "d"):
        ledger.add(text("1", delta))
    ledger.seal()
    assert [event["delta"] for event in lines(ledger.since(1))] == ["a" * 8191 + "b", "cd"]


def test_deltas_with_something_between_them_or_already_numbered_stay_apart() -> None:
    ledger = EventLedger(opening())
    ledger.add(text("1", "a"))
    ledger.add({"type": "STEP_STARTED", "stepName": "x"})
    ledger.add(text("1", "b"))
    ledger.seal()
    ledger.add(text("1", "c"))
    ledger.seal()
    assert [event.get("delta") for event in lines(ledger.since(1))] == ["a", None, "b", "c"]


def test_joining_does_not_change_the_callers_event() -> None:
    ledger, first = EventLedger(opening()), text("1", "a")
    ledger.add(first)
    ledger.add(text("1", "b"))
    assert first["delta"] == "a"


def test_a_state_delta_is_no_text_delta() -> None:
    ledger = EventLedger(opening())
    for value in (1, 2):
        ledger.add({"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/a", "value": value}]})
    ledger.seal()
    assert len(lines(ledger.since(1))) == 2


def test_the_uncommitted_bytes_are_counted_until_the_commit() -> None:
    ledger = EventLedger(opening())
    for n in range(3):
        ledger.add(text(str(n), "x" * 100))
    ledger.seal()
    before = ledger.uncommitted_bytes
    assert before > 300
    ledger.mark_committed(2)
    assert 0 < ledger.uncommitted_bytes < before
    ledger.mark_committed(4)
    assert ledger.uncommitted_bytes == 0


def test_characters_of_several_bytes_count_as_such() -> None:
    ledger = EventLedger(opening())
    for n in range(2):
        ledger.add(text(str(n), "語" * 100))
    ledger.seal()
    batch = ledger.since(1)
    assert batch is not None
    assert ledger.uncommitted_bytes == len("".join(batch.lines).encode()) > 600
    ledger.mark_committed(3)
    assert ledger.uncommitted_bytes == 0


def test_an_older_commit_changes_nothing() -> None:
    ledger = EventLedger(opening())
    ledger.add(text("1", "a"))
    ledger.seal()
    ledger.mark_sent(2)
    ledger.mark_committed(2)
    for seq in (0, 1, 2):
        ledger.mark_committed(seq)
    assert (ledger.committed, ledger.last, ledger.since(2)) == (2, 2, None)


@given(st.lists(st.sampled_from(["add", "seal", "send", "commit", "commit_some"]), max_size=60), st.integers(0, 5))
def test_numbers_have_no_gaps_and_nothing_is_forgotten_early(actions: list[str], some: int) -> None:
    ledger, said = EventLedger(opening()), 0
    for action in actions:
        match action:
            case "add":
                said += 1
                ledger.add({"type": "CUSTOM", "name": "n", "value": said})
            case "seal":
                ledger.seal()
            case "send":
                ledger.mark_sent(ledger.last)
            case "commit":
                ledger.mark_committed(ledger.last)
            case _:
                ledger.mark_committed(min(ledger.last, ledger.committed + some))
        for seq in (ledger.sent, ledger.committed):
            batch = ledger.since(seq)
            assert (batch.first_seq - 1 if batch else ledger.last) == seq
            assert (batch.last_seq if batch else seq) == ledger.last
    ledger.seal()
    assert ledger.last == 1 + said
    assert [event["value"] for event in lines(ledger.since(max(1, ledger.committed)))] == list(
        range(max(1, ledger.committed), said + 1)
    )
