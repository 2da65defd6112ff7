"""Pauses against real PostgreSQL and Redis: answers are matched once, kept, and resume the run when all are there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.domain.run_input import digest
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import AwaitingInput, NotPendingYet, NotRunnable, ToolResultMismatch

from .actor_harness import USER, Actor, Worker, accept, actor, start
from .test_session_actor import log

SESSION = session_uuid(USER, "t1")
APPROVAL = PendingToolCall(tool_call_id="pay", tool_name="pay", args={"sum": 5}, interrupt_id="i-pay", message="Pay 5?")
BROWSER = PendingToolCall(
    tool_call_id="nav", tool_name="ui.go", mode=ToolMode.FRONTEND_EXECUTE, status=ToolCallStatus.PENDING_RESULT
)


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as one:
        yield one


def answer(leg_run_id: str, *answers: c.ToolAnswer, user: str = USER, **changes: Any) -> c.AcceptResume:
    return c.AcceptResume(
        session_id=SESSION,
        user_id=user,
        leg_run_id=leg_run_id,
        digest=digest({"answers": [a.model_dump(mode="json") for a in answers]}),
        answers=answers,
        not_after=utcnow() + timedelta(seconds=30),
    ).but(**changes)


APPROVED = c.ToolAnswer(interrupt_id="i-pay", status="approved", edited_args={"sum": 4})
RESULT = c.ToolAnswer(tool_call_id="nav", status="result", payload={"page": "home"}, message_id="tool-1")


async def paused(it: Actor, *calls: PendingToolCall) -> Worker:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    await it.send(worker.command(c.RequestTools, calls=calls))
    return worker


async def test_a_pause_holds_nothing_and_its_answers_resume_it(it: Actor) -> None:
    await paused(it, APPROVAL, BROWSER)
    [run] = await it.rows("SELECT status FROM runs")
    assert run["status"] == "awaiting_input"
    assert await it.rows("SELECT 1 FROM outbox WHERE kind = 'wakeup'") == []
    assert await it.rows("SELECT 1 FROM run_attempts WHERE ended_at IS NULL") == []
    outcome = (await log(it))[-1]["outcome"]
    assert isinstance(outcome, dict)
    assert [entry["id"] for entry in outcome["interrupts"]] == ["i-pay"]

    partial = await it.send(answer("leg-2", APPROVED))
    assert isinstance(partial, c.RunAnswer)
    assert (partial.status, partial.leg) == (RunStatus.AWAITING_INPUT, 1)
    with pytest.raises(NotRunnable):
        await it.send(start("r1"))
    full = await it.send(answer("leg-2", RESULT))
    assert isinstance(full, c.RunAnswer)
    assert (full.status, full.leg) == (RunStatus.QUEUED, 2)
    resumed = await it.send(start("r1").but(leg=2))
    assert isinstance(resumed, c.StartAnswer)
    opening = [event for _, event in resumed.opening.events()]
    assert opening[0]["runId"] == "leg-2"
    assert [message["role"] for message in opening[1]["messages"]] == ["user", "tool"]
    rows = await it.rows("SELECT result FROM run_steps WHERE kind = 'answer' ORDER BY position")
    settled = [PendingToolCall.model_validate(row["result"]) for row in rows]
    assert [(call.status, call.args) for call in settled] == [("APPROVED", {"sum": 4}), ("EXECUTED", {})]
    assert settled[0].answered_by == USER


async def test_every_call_has_its_message_whatever_ids_its_answer_asks_for(it: Actor) -> None:
    await paused(it, BROWSER, BROWSER.but(tool_call_id="nav2"), BROWSER.but(tool_call_id="nav3"))
    [user] = await it.rows("SELECT message_id FROM messages")
    await it.send(
        answer(
            "leg-2",
            RESULT.model_copy(update={"message_id": user["message_id"]}),
            RESULT.model_copy(update={"tool_call_id": "nav2", "message_id": "same"}),
            RESULT.model_copy(update={"tool_call_id": "nav3", "message_id": "same"}),
        )
    )
    rows = await it.rows("SELECT seq, message_id, tool_call_id FROM messages WHERE role = 'tool' ORDER BY seq")
    assert [tuple(row.values()) for row in rows] == [
        (2, "tool-nav", "nav"),
        (3, "same", "nav2"),
        (4, "tool-nav3", "nav3"),
    ]


async def test_a_hundred_decisions_on_one_call_have_one_winner(it: Actor) -> None:
    await paused(it, APPROVAL)
    decisions = [
        answer(f"leg-{i}", c.ToolAnswer(interrupt_id="i-pay", status="approved", payload=i)) for i in range(100)
    ]
    outcomes = await asyncio.gather(*(it.send(decision) for decision in decisions), return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, c.RunAnswer)]
    assert len(won) == 1
    assert all(isinstance(outcome, c.RunAnswer | ToolResultMismatch) for outcome in outcomes)
    assert len(await it.rows("SELECT 1 FROM run_steps WHERE kind = 'answer'")) == 1
    refused = await it.rows("SELECT actor FROM audit_log WHERE action = 'tool_result.refused'")
    assert [row["actor"] for row in refused] == [USER] * 99


async def test_the_same_answer_again_gets_the_first_reply_for_ever(it: Actor) -> None:
    await paused(it, APPROVAL)
    first = await it.send(answer("leg-2", APPROVED))
    assert await it.send(answer("leg-2", APPROVED)) == first
    worker = Worker.of("r1", await it.send(start("r1").but(leg=2)))
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    again = await it.send(answer("leg-2", APPROVED))
    assert isinstance(first, c.RunAnswer)
    assert isinstance(again, c.RunAnswer)
    assert (again.leg, again.task_id) == (first.leg, first.task_id)
    assert len(await it.rows("SELECT 1 FROM audit_log WHERE action LIKE 'tool_result%'")) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        c.ToolAnswer(tool_call_id="unknown", status="result"),
        c.ToolAnswer(interrupt_id="i-other", status="approved"),
        c.ToolAnswer(tool_call_id="pay", status="result", payload="forged"),
        c.ToolAnswer(tool_call_id="nav", status="approved"),
    ],
)
async def test_an_answer_that_does_not_match_changes_nothing_and_is_on_record(it: Actor, wrong: c.ToolAnswer) -> None:
    await paused(it, APPROVAL, BROWSER)
    before = await it.rows("SELECT state_snapshot FROM sessions")
    with pytest.raises(ToolResultMismatch):
        await it.send(answer("leg-2", RESULT, wrong))
    assert await it.rows("SELECT state_snapshot FROM sessions") == before
    [entry] = await it.rows("SELECT actor, action, details FROM audit_log")
    assert (entry["actor"], entry["action"]) == (USER, "tool_result.refused")


async def test_an_answer_before_the_pause_is_asked_to_come_again(it: Actor) -> None:
    await it.send(accept("r1"))
    await it.send(start("r1"))
    with pytest.raises(NotPendingYet) as early:
        await it.send(answer("leg-2", APPROVED))
    assert early.value.retry_after
    assert await it.rows("SELECT 1 FROM audit_log") == []


async def test_a_new_message_waits_for_approvals_but_not_for_the_browser(it: Actor) -> None:
    await paused(it, BROWSER)
    await it.send(accept("r2"))
    worker = Worker.of("r2", await it.send(start("r2")))
    statuses = {row["client_run_id"]: row["status"] for row in await it.rows("SELECT client_run_id, status FROM runs")}
    assert statuses == {"r1": "cancelled", "r2": "running"}
    await it.send(worker.command(c.RequestTools, calls=(APPROVAL,)))
    with pytest.raises(AwaitingInput):
        await it.send(accept("r3"))


async def test_expired_calls_never_execute_and_the_run_goes_on(it: Actor) -> None:
    await paused(it, APPROVAL.but(expires_at=utcnow() - timedelta(seconds=1)))
    with pytest.raises(ToolResultMismatch):
        await it.send(answer("leg-2", APPROVED))
    await it.send(c.ExpireToolCalls(session_id=SESSION))
    resumed = await it.send(start("r1").but(leg=2))
    assert isinstance(resumed, c.StartAnswer)
    [row] = await it.rows("SELECT result FROM run_steps WHERE kind = 'answer'")
    assert PendingToolCall.model_validate(row["result"]).status is ToolCallStatus.EXPIRED


async def test_cancelling_a_paused_run_ends_it_with_a_terminal_of_its_own(it: Actor) -> None:
    await paused(it, APPROVAL)
    cancel = c.CancelRun(session_id=SESSION, user_id=USER, run_id="r1", not_after=utcnow() + timedelta(seconds=30))
    ended = await it.send(cancel)
    assert isinstance(ended, c.RunAnswer)
    assert (ended.status, ended.leg) == (RunStatus.CANCELLED, 2)
    assert await it.send(cancel) == ended
    assert await it.rows("SELECT leg, status FROM runs") == [{"leg": 2, "status": "cancelled"}]
    [told] = [i.payload["body"] for i in it.outbox if i.kind == "integration" and i.payload["name"] == "cancelled"]
    assert told["leg"] == 2
    assert [event["type"] for event in (await log(it))[-2:]] == ["RUN_STARTED", "RUN_FINISHED"]
    with pytest.raises(ToolResultMismatch):
        await it.send(answer("leg-2", APPROVED))
