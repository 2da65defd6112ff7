"""What becomes of a paused run whose calls nobody answers in time, and of one that is cancelled."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from uuid import uuid4

import pytest

from callboard_actors.decide import decide
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode

from .session_model import POLICY, SESSION, USER, SessionModel

APPROVAL = PendingToolCall(tool_call_id="pay", tool_name="pay", interrupt_id="i-pay")
BROWSER = PendingToolCall(
    tool_call_id="nav", tool_name="ui.go", mode=ToolMode.FRONTEND_EXECUTE, status=ToolCallStatus.PENDING_RESULT
)
LAST = timedelta(days=30)


@pytest.fixture
def session() -> SessionModel:
    """A session whose run waits for two calls; one of them expires much later."""
    session = SessionModel()
    session.apply(session.accept("r1"))
    session.apply(session.start(uuid4()))
    late = BROWSER.but(expires_at=session.now + LAST)
    about = {"session_id": SESSION, "run_id": session.active_id, "epoch": session.snapshot.epoch, "ordinal": 1}
    session.apply(c.RequestTools(**about, calls=(APPROVAL, late)))
    return session


def expire(session: SessionModel, *, fail: bool) -> list[e.Event]:
    command = c.ExpireToolCalls(session_id=SESSION)
    facts = replace(session.facts(command), policy=replace(POLICY, fail_on_expiry=fail))
    return decide(session.snapshot, command, facts)


@pytest.mark.parametrize("fail", [False, True])
def test_nothing_expires_before_its_time(session: SessionModel, fail: bool) -> None:
    session.now += POLICY.tool_call_ttl - timedelta(seconds=1)
    assert expire(session, fail=fail) == []


def test_a_run_goes_on_when_the_last_call_has_expired(session: SessionModel) -> None:
    session.now += POLICY.tool_call_ttl
    events = expire(session, fail=False)
    assert [event.call.tool_call_id for event in events if isinstance(event, e.ToolCallSettled)] == ["pay"]
    assert not [event for event in events if isinstance(event, e.LegOpened)], "the browser's call is still open"
    session.now += LAST
    events = expire(session, fail=False)
    assert {event.call.status for event in events if isinstance(event, e.ToolCallSettled)} == {ToolCallStatus.EXPIRED}
    assert [event.leg for event in events if isinstance(event, e.LegOpened)] == [2]


def test_a_run_fails_with_its_first_expired_call_where_that_is_configured(session: SessionModel) -> None:
    session.now += POLICY.tool_call_ttl
    events = expire(session, fail=True)
    [end] = [event for event in events if isinstance(event, e.RunEnded)]
    assert (end.status, end.error_code) == (RunStatus.FAILED, "TOOL_CALL_EXPIRED")
    assert end.error_message == "Nobody answered in time: pay."
    [committed] = [event for event in events if isinstance(event, e.EventsCommitted)]
    assert [event["type"] for _, event in committed.batch.events()] == ["RUN_STARTED", "RUN_ERROR"]
    assert committed.closing


def test_a_cancel_is_on_record_once(session: SessionModel) -> None:
    command = session.cancel("r1").but(reason="changed my mind")
    [noted] = [
        event for event in decide(session.snapshot, command, session.facts(command)) if isinstance(event, e.Audited)
    ]
    assert (noted.actor, noted.action, noted.subject) == (USER, "run.cancel", "r1")
    assert noted.details == {"status": "queued", "reason": "changed my mind"}
    session.apply(command)
    assert decide(session.snapshot, command, session.facts(command)) == []
