"""Single decisions of a session's actor: what it says when a command meets a session in a certain state."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal
from functools import reduce

import pytest

from callboard_actors.announcements import announcements
from callboard_actors.commit import Versioned
from callboard_actors.decide import decide
from callboard_actors.evolve import evolve
from callboard_actors.metrics import group_committed
from callboard_actors.replies import Decided, answer
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.ids import run_uuid
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus, SessionStatus, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.observe.metrics import REGISTRY

from .session_model import SESSION, USER, SessionModel

STEP = c.StepBegin(
    key="answer@1", kind="model", name="answer", digest="d", provider="p", model="m",
    input_tokens=10, input_price="0.001", output_price="0.002",
)  # fmt: skip


@pytest.fixture
def running() -> SessionModel:
    """A session whose run `r1` is at work, with one model call begun."""
    model = SessionModel()
    model.apply(model.accept("r1"))
    model.apply(model.start(uuid.UUID(int=1)).but(steps=(STEP,)))
    return model


def finish(model: SessionModel) -> c.FinishRun:
    epoch, run_id = model.snapshot.epoch, model.active_id
    return c.FinishRun(session_id=SESSION, run_id=run_id, epoch=epoch, ordinal=1, status=RunStatus.SUCCEEDED)


def decided_of(model: SessionModel, command: c.Command) -> Decided:
    facts, before = model.facts(command), model.snapshot
    events = decide(before, command, facts)
    return Decided(command, facts, before, reduce(evolve, events, before), events)


# -- rollback of a run that is being cancelled ------------------------------------------------------------------------


@pytest.fixture(params=["cancel", "interrupt"])
def cancelling(request: pytest.FixtureRequest, running: SessionModel) -> SessionModel:
    by_user = request.param == "cancel"
    running.apply(running.cancel("r1") if by_user else running.accept("r2", strategy=MultitaskStrategy.INTERRUPT))
    return running


def test_a_rollback_withdraws_the_messages_of_a_run_that_is_being_cancelled(cancelling: SessionModel) -> None:
    cancelling.apply(cancelling.accept("r3", strategy=MultitaskStrategy.ROLLBACK))
    cancelling.apply(finish(cancelling))
    assert cancelling.withdrawn == {run_uuid(USER, "r1")}


def test_a_rollback_gives_a_cancelled_run_no_more_time_and_tells_its_worker_once(cancelling: SessionModel) -> None:
    [told], active = cancelling.told, cancelling.snapshot.active
    assert active is not None
    cancelling.now += timedelta(seconds=2)
    for run_id in ("r3", "r4"):
        cancelling.apply(cancelling.accept(run_id, strategy=MultitaskStrategy.ROLLBACK).but(not_after=cancelling.now))
        now = cancelling.snapshot.active
        assert now is not None
        assert (now.cancel_by, now.status, now.withdraw) == (active.cancel_by, RunStatus.CANCELLING, True)
    assert cancelling.told == [told]


def test_an_interrupt_takes_no_rollback_back(running: SessionModel) -> None:
    running.apply(running.accept("r2", strategy=MultitaskStrategy.ROLLBACK))
    running.apply(running.accept("r3", strategy=MultitaskStrategy.INTERRUPT))
    running.apply(finish(running))
    assert running.withdrawn == {run_uuid(USER, "r1")}


# -- deletion ---------------------------------------------------------------------------------------------------------


def test_a_deleted_session_keeps_the_cost_of_the_call_that_it_broke_off(running: SessionModel) -> None:
    command = c.DeleteSession(session_id=SESSION, user_id=USER, not_after=running.now)
    decided = decided_of(running, command)
    after = decided.after
    assert (after.status, after.active) == (SessionStatus.DELETED, None)
    assert (after.usage.calls, after.usage.input_tokens, after.usage.cost) == (1, 10, Decimal("0.010"))
    assert [type(event) for event in decided.events] == [e.StepLost, e.WorkerTold, e.SessionDeleted, e.ReadersPoked]


# -- the end of a paused run ------------------------------------------------------------------------------------------

CALL = PendingToolCall(tool_call_id="nav", mode=ToolMode.FRONTEND_EXECUTE, status=ToolCallStatus.PENDING_RESULT)


@pytest.fixture
def paused(running: SessionModel) -> SessionModel:
    epoch, run_id = running.snapshot.epoch, running.active_id
    running.apply(c.RequestTools(session_id=SESSION, run_id=run_id, epoch=epoch, ordinal=1, calls=(CALL,)))
    return running


def test_the_end_of_a_paused_run_is_announced_and_answered_in_the_leg_that_holds_it(paused: SessionModel) -> None:
    decided = decided_of(paused, paused.cancel("r1"))
    [told] = announcements(decided)
    [committed] = [event for event in decided.events if isinstance(event, e.EventsCommitted)]
    assert (told.name, told.body["leg"], told.id) == ("cancelled", 2, uuid.uuid5(told.run_id, "cancelled-2"))
    assert committed.leg == 2
    said = answer(decided).answer
    assert isinstance(said, c.RunAnswer)
    assert said.leg == 2


def test_a_new_message_announces_the_end_of_the_run_that_it_leaves_in_its_last_leg(paused: SessionModel) -> None:
    decided = decided_of(paused, paused.accept("r2"))
    [told] = announcements(decided)
    assert (told.name, told.body["run_id"], told.body["leg"]) == ("cancelled", "r1", 2)
    said = answer(decided).answer
    assert isinstance(said, c.RunAnswer)
    assert (said.run_id, said.leg) == ("r2", 1)


@pytest.mark.parametrize("resumed", [True, False])
def test_only_answers_count_as_a_resumption(paused: SessionModel, resumed: bool) -> None:
    result = c.ToolAnswer(tool_call_id="nav", status="result", payload={"page": "home"})
    decided = decided_of(paused, paused.resume("leg-2", result) if resumed else paused.cancel("r1"))
    assert any(isinstance(event, e.LegOpened) for event in decided.events)
    before = samples()
    group_committed([Versioned(decided, 1)], 0.01)
    assert samples() - before == resumed


def samples() -> float:
    return REGISTRY.get_sample_value("callboard_runs_resumed_total") or 0.0
