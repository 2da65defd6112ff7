"""Every pending call gets exactly one answer."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from callboard_runtime.domain.commands import ToolAnswer
from callboard_runtime.domain.state_snapshot import PendingToolCall, StateSnapshot, ToolCallStatus
from callboard_runtime.domain.tool_correlation import PendingToolStore, ToolCorrelationError
from callboard_runtime.domain.tool_policy import ToolMode, classify_tool_call
from callboard_runtime.errors import InvalidInput

BROWSER = PendingToolCall(
    tool_call_id="nav", mode=ToolMode.FRONTEND_EXECUTE, status=ToolCallStatus.PENDING_RESULT, tool_name="ui.go"
)
APPROVAL = PendingToolCall(tool_call_id="pay", interrupt_id="i1", args={"sum": 5})
APPROVED = ToolAnswer(interrupt_id="i1", status="approved")


def test_an_unknown_id_is_refused() -> None:
    with pytest.raises(ToolCorrelationError):
        PendingToolStore([]).apply_result(tool_call_id="nope", result="x")


def test_a_result_settles_its_call_once_and_may_come_again() -> None:
    store = PendingToolStore([BROWSER])
    settled = store.apply_result(tool_call_id="nav", result={"page": 1}, by="ada")
    assert settled is not None
    assert settled.status is ToolCallStatus.EXECUTED
    assert store.is_complete
    assert store.apply_result(tool_call_id="nav", result={"page": 1}, by="ada") is None
    with pytest.raises(ToolCorrelationError, match="already settled by ada"):
        store.apply_result(tool_call_id="nav", result={"page": 2}, by="ada")
    with pytest.raises(ToolCorrelationError):
        store.apply_result(tool_call_id="nav", result={"page": 1}, by="eve")


def test_an_approval_takes_edited_arguments_and_no_result() -> None:
    store = PendingToolStore([APPROVAL])
    with pytest.raises(ToolCorrelationError, match="does not answer"):
        store.apply_result(tool_call_id="pay", result="forged")
    settled = store.apply(APPROVED.but(edited_args={"sum": 4}))
    assert settled is not None
    assert (settled.status, settled.args) == (ToolCallStatus.APPROVED, {"sum": 4})


def test_edited_arguments_must_fit_the_schema_that_was_asked_with() -> None:
    schema = {"type": "object", "properties": {"sum": {"type": "integer", "maximum": 9}}, "required": ["sum"]}
    asked = APPROVAL.but(response_schema={"type": "object", "properties": {"editedArgs": schema}})
    store = PendingToolStore([asked])
    for wrong in ({"sum": 10}, {}, {"sum": "5"}):
        with pytest.raises(InvalidInput, match=r"edited arguments of 'pay' \(\): argument"):
            store.apply(APPROVED.but(edited_args=wrong))
    assert store.calls == (asked,), "the decision is still open"
    settled = store.apply(APPROVED.but(edited_args={"sum": 9}))
    assert settled is not None
    assert settled.args == {"sum": 9}


def test_both_ids_of_an_answer_must_agree() -> None:
    with pytest.raises(ToolCorrelationError):
        PendingToolStore([APPROVAL, BROWSER]).apply(APPROVED.but(tool_call_id="nav"))


def test_an_expired_call_takes_no_answer() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    store = PendingToolStore([APPROVAL.but(expires_at=now)])
    with pytest.raises(ToolCorrelationError, match="expired"):
        store.apply(APPROVED, now=now + timedelta(seconds=1))


@settings(deadline=None)
@given(
    st.lists(
        st.builds(
            ToolAnswer,
            tool_call_id=st.sampled_from(["nav", "pay", "other"]),
            status=st.sampled_from(["result", "approved", "rejected", "cancelled", "retry", "fail"]),
            payload=st.integers(0, 2),
        ),
        max_size=12,
    )
)
def test_no_sequence_of_answers_settles_a_call_twice(answers: list[ToolAnswer]) -> None:
    store, settled = PendingToolStore([BROWSER, APPROVAL]), list[str]()
    for answer in answers:
        try:
            call = store.apply(answer)
        except ToolCorrelationError:
            continue
        settled += [call.tool_call_id] if call is not None else []
    assert len(settled) == len(set(settled))


@pytest.mark.parametrize(
    ("name", "source", "approval", "mode"),
    [
        ("ui.open", "", False, "FRONTEND_EXECUTE"),
        ("ui.open", "", True, "FRONTEND_EXECUTE"),
        ("pick", "request.tools", True, "FRONTEND_EXECUTE"),
        ("refund", "tools.yaml", True, "BACKEND_APPROVAL_INTERRUPT"),
        ("lookup", "tools.yaml", False, "BACKEND_DIRECT_EXECUTE"),
    ],
)
def test_where_a_call_runs(name: str, source: str, approval: bool, mode: str) -> None:
    assert classify_tool_call(name, source=source, requires_approval=approval).mode == mode


def test_a_new_snapshot_keeps_its_pending_calls() -> None:
    snapshot = StateSnapshot.new("s1", pending_tool_calls=(APPROVAL,))
    stored = StateSnapshot.load(snapshot.to_json())
    assert stored == snapshot
    assert stored.pending_tool_calls[0].tool_call_id == "pay"
    assert stored.pending_tool_calls[0].status == "PENDING_APPROVAL"
