"""Single decisions of a session's actor: what it says when a command meets a session in a certain state."""

from __future__ import annotations

import uuid
from datetime import timedelta
from decimal import Decimal

import pytest

from callboard_actors.decide import decide
from callboard_actors.evolve import evolve
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.ids import run_uuid
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus

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
    events, after = decide(running.snapshot, command, running.facts(command)), running.snapshot
    for event in events:
        after = evolve(after, event)
    assert (after.status, after.active) == (SessionStatus.DELETED, None)
    assert (after.usage.calls, after.usage.input_tokens, after.usage.cost) == (1, 10, Decimal("0.010"))
    assert [type(event) for event in events] == [e.StepLost, e.WorkerTold, e.SessionDeleted, e.ReadersPoked]
