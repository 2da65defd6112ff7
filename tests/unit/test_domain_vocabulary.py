"""The words every part uses: commands and replies, the state snapshot, usage, errors."""

import typing
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from callboard_runtime import errors
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import ids, state_snapshot
from callboard_runtime.domain.event_batch import ORIGIN, EventId, batch
from callboard_runtime.domain.run_input import NewMessage, RunInput, digest
from callboard_runtime.domain.state_snapshot import (
    ActiveRun,
    OpenStep,
    PendingToolCall,
    QueuedRun,
    RunStatus,
    StateSnapshot,
    ToolCallStatus,
)
from callboard_runtime.domain.usage import CallUsage, UsageTotals
from callboard_runtime.persistence.tables import Money

NOW = datetime(2030, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
SESSION, RUN = ids.session_uuid("ana", "thread-1"), ids.run_uuid("ana", "run-1")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


# -- commands and replies ---------------------------------------------------------------------------------------------

EVENTS = batch(4, 7, [{"type": "CUSTOM", "name": "n", "value": {"none": None, "text": "né\n"}}])
ATTEMPT: dict[str, Any] = {"session_id": SESSION, "run_id": RUN, "epoch": 4, "ordinal": 2, "events": EVENTS}
MESSAGE = NewMessage(message_id="m1", role="assistant", content="hi", tool_calls=({"id": "t1"},))
USAGE = CallUsage(provider="p", model="m", input_tokens=3, output_tokens=2, cost=Decimal("0.0000000123"))
RECORD = c.StepRecord(key="k", result={"text": "x", "none": None}, usage=USAGE)
BEGIN = c.StepBegin(key="k2", kind="model", name="answer", digest="d", input_price="2.8E-7")
CALL = PendingToolCall(tool_call_id="t1", tool_name="f", args={"a": [1]}, requested_at=NOW, expires_at=NOW)
ANSWER = c.ToolAnswer(tool_call_id="t1", status="approved", payload={"ok": True}, edited_args={"a": 1})

COMMANDS: list[c.Command] = [
    c.AcceptRun(
        session_id=SESSION,
        user_id="ana",
        thread_id="thread-1",
        run_id="run-1",
        digest="d",
        input=RunInput(messages=(MESSAGE,), tools=({"name": "t"},), state={"x": None}, forwarded_props={"a": 1}),
        not_after=NOW,
    ),
    c.AcceptResume(
        session_id=SESSION,
        user_id="ana",
        roles=("operator",),
        run_id="run-1",
        leg_run_id="run-2",
        digest="d",
        answers=(ANSWER,),
        not_after=NOW,
    ),
    c.CancelRun(session_id=SESSION, user_id="ana", run_id="run-1", reason="why", not_after=NOW),
    c.DeleteSession(session_id=SESSION, user_id="ana", not_after=NOW),
    c.ClaimCheck(session_id=SESSION, claim_id=RUN, not_after=NOW),
    c.StartRun(session_id=SESSION, run_id=RUN, leg=2, attempt_id=RUN, process="p"),
    c.BeginStep(**ATTEMPT, steps=(BEGIN,), records=(RECORD,), messages=(MESSAGE,)),
    c.RecordStep(**ATTEMPT, records=(RECORD,)),
    c.AppendEvents(**ATTEMPT),
    c.RequestTools(**ATTEMPT, calls=(CALL,), state={"a": 1}),
    c.FinishRun(**ATTEMPT, status=RunStatus.FAILED, error_code="X", error_message="y"),
    c.ReleaseRun(**ATTEMPT),
    c.ReapAttempt(session_id=SESSION, run_id=RUN, attempt_id=RUN),
    c.EnforceDeadline(session_id=SESSION, run_id=RUN),
    c.FailRun(session_id=SESSION, error_code="X", error_message="y"),
    c.ExpireToolCalls(session_id=SESSION),
    c.PruneSession(session_id=SESSION, events_before=NOW),
]


def test_every_command_has_an_example() -> None:
    assert {type(command) for command in COMMANDS} == set(typing.get_args(c.Command))


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.type)
def test_a_command_survives_the_wire(command: c.Command) -> None:
    assert command.type == type(command).__name__
    assert c.decode_command(c.encode_command(command)) == command


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "command: "),
        (b"[]", "command: "),
        (b'{"type": "Explode"}', "command: "),
        (b'{"type": "ExpireToolCalls"}', "session_id: Field required"),
        (b'{"type": "ExpireToolCalls", "session_id": "hunter2"}', "session_id: "),
        (b'{"type": "ExpireToolCalls", "session_id": "\\u0000"}', "NUL"),
        (b"\xff", "command: "),
    ],
)
def test_a_bad_command_is_named_and_not_shown(body: bytes, says: str) -> None:
    with pytest.raises(errors.InvalidInput, match=says) as caught:
        c.decode_command(body)
    assert "hunter2" not in caught.value.message


@pytest.mark.parametrize("ordinal", [0, -1])
def test_ordinals_and_epochs_count_from_one(ordinal: int) -> None:
    with pytest.raises(ValidationError, match="ordinal"):
        c.AppendEvents(**ATTEMPT | {"ordinal": ordinal})
    with pytest.raises(ValidationError, match="epoch"):
        c.AppendEvents(**ATTEMPT | {"epoch": ordinal})


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.type)
def test_a_command_with_a_field_that_is_no_more_is_still_read(command: c.Command) -> None:
    """While processes are renewed one by one, old ones send what new ones have dropped, such as a FailRun's run_id."""
    body = c.encode_command(command)
    assert c.decode_command(body[:-1] + b',"a_former_field":null}') == command


def test_a_command_is_capped_on_both_sides() -> None:
    text = "x" * c.MAX_COMMAND_BYTES
    command = c.FailRun(session_id=SESSION, error_code="X", error_message=text)
    with pytest.raises(errors.TooLarge, match="FailRun has 10"):
        c.encode_command(command)
    with pytest.raises(errors.TooLarge):
        c.decode_command(text.encode() + b" ")


REPLIES: list[c.Answer] = [
    c.RunAnswer(run_id="r", thread_id="t", task_id="k", status=RunStatus.AWAITING_INPUT, leg=2),
    c.StartAnswer(epoch=4, attempt=2, leg=1, opening=EVENTS, deadline=NOW),
    c.StartAnswer(epoch=4, attempt=2, leg=1, opening=EVENTS, deadline=None),
    c.StepAnswer(committed_seq=9, cancelling=True),
    c.DoneAnswer(),
]


@pytest.mark.parametrize("answer", REPLIES, ids=lambda answer: answer.type)
def test_an_answer_survives_the_wire(answer: c.Answer) -> None:
    assert c.decode_reply(c.encode_reply(c.Reply(answer=answer))).unwrap() == answer


def test_every_answer_has_an_example() -> None:
    assert {type(answer) for answer in REPLIES} == set(typing.get_args(c.Answer))


def test_a_refusal_is_raised_where_the_reply_is_read() -> None:
    reply = c.refusal(errors.NotPendingYet("wait", retry_after=3))
    with pytest.raises(errors.NotPendingYet, match="wait") as caught:
        c.decode_reply(c.encode_reply(reply)).unwrap()
    assert caught.value.retry_after == 3


# -- the state snapshot -----------------------------------------------------------------------------------------------

FULL = StateSnapshot.new(
    SESSION,
    user_id="ana",
    thread_id="thread-1",
    status=state_snapshot.SessionStatus.AWAITING_INPUT,
    epoch=4,
    log_epoch=4,
    log_seq=17,
    message_count=3,
    active=ActiveRun(
        run_id=RUN,
        client_run_id="run-1",
        status=RunStatus.AWAITING_INPUT,
        attempt_id=uuid4(),
        open_steps={"k": OpenStep(kind="model", input_price="2.8E-7")},
        deadline=NOW,
        usage=UsageTotals().plus(USAGE),
        leg_usage={"p/m": UsageTotals().plus(USAGE)},
    ),
    queue=(QueuedRun(run_id=RUN, client_run_id="run-2"),),
    pending_tool_calls=(CALL,),
    shared_state={"a": [None, 1]},
    usage=UsageTotals().plus(USAGE),
)


@pytest.mark.parametrize("snapshot", [FULL, StateSnapshot.new(SESSION), StateSnapshot()], ids=["full", "new", "empty"])
def test_a_snapshot_survives_the_database(snapshot: StateSnapshot) -> None:
    stored = snapshot.to_json()
    assert stored["schema_version"] == state_snapshot.SCHEMA_VERSION
    assert StateSnapshot.load(stored) == snapshot


def test_a_new_snapshot() -> None:
    fresh = StateSnapshot.new(SESSION, user_id="ana")
    assert (fresh.session_id, fresh.user_id, fresh.active, fresh.queue) == (str(SESSION), "ana", None, ())
    assert fresh.log_position == ORIGIN
    assert FULL.log_position == EventId(4, 17)


def test_a_pending_call_waits_for_approval_unless_told_otherwise() -> None:
    assert PendingToolCall(tool_call_id="t1").status is ToolCallStatus.PENDING_APPROVAL
    assert PendingToolCall(tool_call_id="t1").status == "PENDING_APPROVAL"


def test_a_snapshot_without_version_is_of_the_first() -> None:
    stored = FULL.to_json()
    del stored["schema_version"]
    assert StateSnapshot.load(stored) == FULL


def test_a_snapshot_of_a_later_release_is_refused() -> None:
    with pytest.raises(ValueError, match="schema_version 99; this release reads up to"):
        StateSnapshot.load(FULL.to_json() | {"schema_version": 99})


def test_loading_leaves_what_was_stored_alone() -> None:
    stored = FULL.to_json()
    before = repr(stored)
    StateSnapshot.load(stored)
    assert repr(stored) == before


def test_snapshots_are_replaced_not_changed() -> None:
    changed = FULL.but(message_count=9)
    assert (changed.message_count, FULL.message_count) == (9, 3)
    with pytest.raises(ValidationError, match="frozen"):
        FULL.message_count = 9  # type: ignore[misc]


def test_run_statuses_that_end() -> None:
    assert {"succeeded", "failed", "cancelled"} == state_snapshot.ENDED
    assert RunStatus.AWAITING_INPUT not in state_snapshot.ENDED


# -- input and usage --------------------------------------------------------------------------------------------------


def test_a_digest_never_changes() -> None:
    assert (
        digest({"b": [1, {"x": None}], "a": "é"}) == "d54840634234a0d12c8f38305502b98c9b41beaaa431f1e6828d4d1b35dbd05d"
    )


@settings(deadline=None)
@given(st.dictionaries(st.text(min_size=1), JSON, max_size=4))
def test_absent_null_and_empty_count_as_the_same(value: dict[str, Any]) -> None:
    padded = {**value, "\U0010ffff-null": None, "\U0010ffff-list": [], "\U0010ffff-map": {}}
    assert digest(padded) == digest(value) == digest(dict(reversed(value.items())))


@pytest.mark.parametrize("other", [{"a": 0}, {"a": False}, {"a": ""}, {"a": "1"}, {"a": [1]}, {"b": 1}, {}])
def test_different_inputs_have_different_digests(other: dict[str, Any]) -> None:
    assert digest({"a": 1}) != digest(other)


CALLS = st.builds(
    CallUsage,
    provider=st.just("p"),
    model=st.just("m"),
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    cached_tokens=st.integers(0, 10**6),
    reasoning_tokens=st.integers(0, 10**6),
    cost=st.none() | st.decimals(0, 100, places=10),
    estimated=st.booleans(),
)


@settings(deadline=None)
@given(st.lists(CALLS, max_size=6))
def test_totals_are_the_sum_of_the_calls(calls: list[CallUsage]) -> None:
    totals = UsageTotals()
    for call in calls:
        totals = totals.plus(call)
    assert totals.calls == len(calls)
    assert totals.total_tokens == sum(call.input_tokens + call.output_tokens for call in calls)
    assert totals.cost == sum((call.cost for call in calls if call.cost is not None), Decimal(0))
    assert totals.unpriced_calls == sum(call.cost is None for call in calls)
    assert totals.estimated_calls == sum(call.estimated for call in calls)
    assert UsageTotals.model_validate_json(totals.model_dump_json()) == totals


def test_money_has_room_for_the_cheapest_token() -> None:
    assert Money.scale == 10


# -- errors -----------------------------------------------------------------------------------------------------------


def every_error(root: type[errors.CallboardError] = errors.CallboardError) -> list[type[errors.CallboardError]]:
    here = [child for child in root.__subclasses__() if child.__module__ == errors.__name__]
    return [root, *(found for child in here for found in every_error(child))]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_is_rebuilt_from_its_code(kind: type[errors.CallboardError]) -> None:
    rebuilt = errors.from_code(kind.code, "what happened", retry_after=7)
    assert type(rebuilt) is kind
    assert (rebuilt.message, str(rebuilt), rebuilt.retry_after) == ("what happened", "what happened", 7)


def test_codes_are_unique_and_stable_in_form() -> None:
    codes = [kind.code for kind in every_error()]
    assert len(set(codes)) == len(codes)
    assert not [code for code in codes if not code.replace("_", "").isupper()]


@pytest.mark.parametrize("kind", every_error(), ids=lambda kind: kind.__name__)
def test_an_error_explains_itself(kind: type[errors.CallboardError]) -> None:
    assert kind().message == (kind.__doc__ or "").strip()
    assert 400 <= kind.status < 600


def test_an_unknown_code_is_still_an_error_of_ours() -> None:
    rebuilt = errors.from_code("FROM_THE_FUTURE", "text")
    assert type(rebuilt) is errors.CallboardError
    assert rebuilt.message == "text"
