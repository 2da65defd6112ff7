"""The session actor against real PostgreSQL and Redis: what is committed, what is fenced, what is billed."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from sqlalchemy import text

from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.ids import run_uuid, session_uuid, utcnow
from callboard_runtime.domain.run_input import MultitaskStrategy, NewMessage
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import (
    AttemptAlive,
    ConfigError,
    NotRunnable,
    RunIdConflict,
    SessionBusy,
    StaleEpoch,
    TooLate,
)

from .actor_harness import USER, Actor, Worker, accept, actor, start

SESSION = session_uuid(USER, "t1")
STEP = c.StepBegin(
    key="answer@1", kind="model", name="answer", digest="d", provider="p", model="m",
    input_tokens=10, input_price="0.001", output_price="0.002",
)  # fmt: skip
USAGE = CallUsage(provider="p", model="m", input_tokens=12, output_tokens=5, cost=Decimal("0.02"))
TEXT = (
    {"type": "TEXT_MESSAGE_START", "messageId": "a1", "role": "assistant"},
    {"type": "TEXT_MESSAGE_CONTENT", "messageId": "a1", "delta": "Hello there"},
)
TEXT_END = {"type": "TEXT_MESSAGE_END", "messageId": "a1"}
ANSWER = NewMessage(message_id="a1", role="assistant", content="Hello there")


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as one:
        yield one


async def heartbeat(it: Actor, process: str, *attempts: uuid.UUID) -> None:
    listed = "[" + ",".join(f'"{attempt}"' for attempt in attempts) + "]"
    async with it.engine.begin() as db:
        await db.exec_driver_sql(
            "INSERT INTO processes (id, kind, host, attempts) VALUES ($1, 'worker', 'h', $2::text::jsonb) "
            "ON CONFLICT (id) DO UPDATE SET attempts = excluded.attempts, beat_at = now()",
            (process, listed),
        )


async def whole_run(it: Actor, run_id: str) -> None:
    worker = Worker.of(run_id, await it.send(start(run_id)))
    await it.send(worker.command(c.BeginStep, steps=(STEP,)))
    record = c.StepRecord(key=STEP.key, result={"text": "Hello there"}, usage=USAGE)
    answer = ANSWER.but(message_id=f"a-{run_id}")
    await it.send(worker.command(c.RecordStep, worker.show(*TEXT, TEXT_END), records=(record,), messages=(answer,)))
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))


async def test_a_run_from_acceptance_to_its_end(it: Actor) -> None:
    accepted = await it.send(accept("r1"))
    assert isinstance(accepted, c.RunAnswer)
    assert [item.kind for item in it.outbox] == ["wakeup"]
    await whole_run(it, "r1")

    [run] = await it.rows(
        "SELECT status, calls, total_tokens, cost, p.config, started_at, ended_at "
        "FROM runs JOIN pinned_configs p ON p.digest = config_digest"
    )
    assert (run["status"], run["calls"], run["total_tokens"], run["cost"]) == ("succeeded", 1, 17, Decimal("0.02"))
    assert run["config"]
    assert run["started_at"]
    assert run["ended_at"]
    [session] = await it.rows("SELECT title, status, message_count, total_tokens, log_epoch, log_seq FROM sessions")
    assert session == {
        "title": "hello",
        "status": "idle",
        "message_count": 2,
        "total_tokens": 17,
        "log_epoch": 1,
        "log_seq": 5,
    }
    messages = await it.rows("SELECT seq, role, content FROM messages ORDER BY seq")
    assert [(m["seq"], m["role"], m["content"]) for m in messages] == [
        (1, "user", "hello"),
        (2, "assistant", "Hello there"),
    ]
    [call] = await it.rows("SELECT status, input_tokens, output_tokens, cost FROM llm_calls")
    assert call == {"status": "recorded", "input_tokens": 12, "output_tokens": 5, "cost": Decimal("0.02")}
    events = await log(it)
    assert [event["type"] for event in events] == [
        "RUN_STARTED", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "RUN_FINISHED",
    ]  # fmt: skip
    assert events[-1]["outcome"] == {"type": "success"}
    assert events[-1]["usage"][0]["totalTokens"] == 17
    [leg] = await it.rows("SELECT first_epoch, last_epoch, last_seq, history_seq FROM run_legs")
    assert leg == {"first_epoch": 1, "last_epoch": 1, "last_seq": 5, "history_seq": 1}
    assert await it.rows("SELECT 1 FROM outbox WHERE kind = 'wakeup'") == []


async def log(it: Actor) -> list[dict[str, object]]:
    rows = await it.rows("SELECT epoch, first_seq, lines FROM event_segments ORDER BY epoch, first_seq")
    found: list[dict[str, object]] = []
    for row in rows:
        lines = EventBatch(epoch=row["epoch"], first_seq=row["first_seq"], lines=str(row["lines"]).split("\n"))  # type: ignore[arg-type]
        found += [event for _, event in lines.events()]
    return found


async def test_the_same_run_a_hundred_times_at_once_is_one_run(it: Actor) -> None:
    answers = await asyncio.gather(*(it.send(accept("r1")) for _ in range(100)))
    assert len({answer.task_id for answer in answers if isinstance(answer, c.RunAnswer)}) == 1
    assert len(await it.rows("SELECT 1 FROM runs")) == 1
    assert len(await it.rows("SELECT 1 FROM messages")) == 1


async def test_the_same_id_with_another_body_or_session_is_refused(it: Actor) -> None:
    await it.send(accept("r1"))
    with pytest.raises(RunIdConflict):
        await it.send(accept("r1", text="something else"))
    with pytest.raises(RunIdConflict):
        await it.send(accept("r1", thread="another"))


async def test_a_hundred_runs_of_one_session_have_gapless_messages(it: Actor) -> None:
    await asyncio.gather(*(it.send(accept(f"r{i}")) for i in range(100)))
    for i in range(100):
        await whole_run(it, f"r{i}")
    messages = await it.rows("SELECT seq, role, run_id FROM messages ORDER BY seq")
    assert [m["seq"] for m in messages] == list(range(1, 201))
    assert [m["role"] for m in messages] == ["user", "assistant"] * 100
    assert [m["run_id"] for m in messages] == [run_uuid(USER, f"r{i // 2}") for i in range(200)]
    [session] = await it.rows("SELECT total_tokens, cost FROM sessions")
    assert session == {"total_tokens": 1700, "cost": Decimal("2.0")}


async def test_sessions_of_a_partition_share_commits_and_a_bad_one_costs_the_others_nothing(it: Actor) -> None:
    good = [it.send(accept(f"r{i}", thread=f"t{i}")) for i in range(50)]
    bad = it.send(accept("x", thread="tx", agent_id="no-such-agent"))
    *answers, refused = await asyncio.gather(*good, bad, return_exceptions=True)
    assert all(isinstance(answer, c.RunAnswer) for answer in answers)
    assert isinstance(refused, ConfigError) or getattr(refused, "code", "") == "NOT_FOUND"
    assert len(await it.rows("SELECT 1 FROM runs")) == 50


async def test_a_start_is_granted_once_per_attempt_and_refused_while_it_lives(it: Actor) -> None:
    await it.send(accept("r1"))
    attempt = uuid.uuid4()
    await heartbeat(it, "w1", attempt)
    first = await it.send(start("r1", attempt=attempt))
    assert await it.send(start("r1", attempt=attempt)) == first
    with pytest.raises(AttemptAlive):
        await it.send(start("r1", process="w2"))


async def test_a_fresh_attempt_is_alive_before_its_first_heartbeat_lists_it(it: Actor) -> None:
    await it.send(accept("r1"))
    await heartbeat(it, "w1")
    await it.send(start("r1"))
    with pytest.raises(AttemptAlive):
        await it.send(start("r1", process="w2"))


async def test_who_could_not_beat_calls_nobody_silent(it: Actor) -> None:
    await it.send(accept("r1"))
    attempt = uuid.uuid4()
    await it.send(start("r1", attempt=attempt))
    await heartbeat(it, "w1", attempt)
    async with it.engine.begin() as db:
        await db.exec_driver_sql("UPDATE processes SET beat_at = now() - interval '1 hour'")
    it.blind = True  # an outage of the database has just ended, and the worker will be heard any moment
    with pytest.raises(AttemptAlive):
        await it.send(start("r1", process="w2"))
    it.blind = False
    second = await it.send(start("r1", process="w2"))
    assert isinstance(second, c.StartAnswer)
    assert second.attempt == 2


async def test_a_dead_attempt_is_taken_over_and_its_tail_adopted(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1", process="gone")))
    await it.send(worker.command(c.BeginStep, steps=(STEP,)))
    shown = worker.show(*TEXT)
    await it.tail.append(SESSION, shown, committed=1, create=True)

    second = await it.send(start("r1", process="w2"))
    assert isinstance(second, c.StartAnswer)
    assert (second.epoch, second.attempt) == (2, 2)
    opening = [event for _, event in second.opening.events()]
    assert [event["type"] for event in opening] == ["TEXT_MESSAGE_END", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT"]
    assert [message["id"] for message in opening[1]["messages"]] == ["m-r1"]
    assert [event["type"] for event in (await log(it))[1:3]] == ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
    [call] = await it.rows("SELECT status, estimated, input_tokens, output_tokens FROM llm_calls")
    assert call == {"status": "lost", "estimated": True, "input_tokens": 10, "output_tokens": 3}
    with pytest.raises(StaleEpoch):
        await it.send(worker.command(c.RecordStep, records=(c.StepRecord(key=STEP.key, usage=USAGE),)))
    appended = await it.tail.append(SESSION, worker.show(TEXT_END), committed=1, create=False)
    assert appended.name == "FENCED"


async def test_attempts_that_get_nowhere_are_bounded(it: Actor) -> None:
    await it.send(accept("r1"))
    for number in range(3):
        await it.send(start("r1", process=f"gone{number}"))
    with pytest.raises(NotRunnable):
        await it.send(start("r1", process="gone4"))
    [run] = await it.rows("SELECT status, error_code FROM runs")
    assert run == {"status": "failed", "error_code": "ATTEMPTS_EXHAUSTED"}
    assert (await log(it))[-1]["type"] == "RUN_ERROR"


async def test_cancel_of_a_running_run_grants_no_step_and_ends_it_cancelled(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    late = utcnow().replace(year=2100)
    cancel = c.CancelRun(session_id=SESSION, user_id=USER, run_id="r1", not_after=late)
    answer = await it.send(cancel)
    assert isinstance(answer, c.RunAnswer)
    assert answer.status is RunStatus.CANCELLING
    assert [item.payload["process"] for item in it.outbox if item.kind == "control"] == ["w1"]
    granted = await it.send(worker.command(c.BeginStep, steps=(STEP,)))
    assert isinstance(granted, c.StepAnswer)
    assert granted.cancelling
    assert await it.rows("SELECT 1 FROM llm_calls") == []
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    assert (await log(it))[-1]["outcome"] == {"type": "cancelled"}
    again = await it.send(cancel)
    assert isinstance(again, c.RunAnswer)
    assert again.status is RunStatus.CANCELLED


async def test_a_stuck_cancelled_run_is_ended_by_force_with_its_text_kept(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    await it.send(worker.command(c.BeginStep, worker.show(*TEXT), steps=(STEP,)))
    late = utcnow().replace(year=2100)
    await it.send(c.CancelRun(session_id=SESSION, user_id=USER, run_id="r1", not_after=late))
    deadline = c.EnforceDeadline(session_id=SESSION, run_id=run_uuid(USER, "r1"))
    await it.send(deadline)
    [run] = await it.rows("SELECT status FROM runs")
    assert run["status"] == "cancelling"
    past = """'"2020-01-01T00:00:00Z"'"""
    async with it.engine.begin() as db:
        await db.exec_driver_sql(
            f"UPDATE sessions SET state_snapshot = jsonb_set(state_snapshot, '{{active,cancel_by}}', {past})"
        )
    await it.take()
    await it.send(deadline)
    [run] = await it.rows("SELECT status FROM runs")
    assert run["status"] == "cancelled"
    assert [m["content"] for m in await it.rows("SELECT content FROM messages ORDER BY seq")] == [
        "hello",
        "Hello there",
    ]
    assert [event["type"] for event in (await log(it))[-2:]] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
    with pytest.raises(StaleEpoch):
        await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))


async def test_cancel_of_a_queued_run_and_of_an_unstarted_one(it: Actor) -> None:
    await it.send(accept("r1"))
    await it.send(accept("r2"))
    late = utcnow().replace(year=2100)
    for run_id in ("r2", "r1"):
        answer = await it.send(c.CancelRun(session_id=SESSION, user_id=USER, run_id=run_id, not_after=late))
        assert isinstance(answer, c.RunAnswer)
        assert answer.status is RunStatus.CANCELLED
    assert [row["status"] for row in await it.rows("SELECT status FROM runs")] == ["cancelled", "cancelled"]
    assert await it.rows("SELECT 1 FROM event_segments") == []
    assert [m["message_id"] for m in await it.rows("SELECT message_id FROM messages")] == ["m-r1"]


async def test_busy_session_strategies(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    with pytest.raises(SessionBusy):
        await it.send(accept("r2", strategy=MultitaskStrategy.REJECT))
    await it.send(accept("r3"))
    await it.send(accept("r4", strategy=MultitaskStrategy.ROLLBACK))
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    statuses = {row["client_run_id"]: row["status"] for row in await it.rows("SELECT client_run_id, status FROM runs")}
    assert statuses == {"r1": "cancelled", "r3": "queued", "r4": "queued"}
    messages = await it.rows("SELECT message_id, withdrawn FROM messages ORDER BY seq")
    assert messages == [{"message_id": "m-r1", "withdrawn": True}, {"message_id": "m-r3", "withdrawn": False}]


async def test_a_rollback_after_a_cancellation_withdraws_everything_up_to_the_last_message(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    late = utcnow().replace(year=2100)
    await it.send(c.CancelRun(session_id=SESSION, user_id=USER, run_id="r1", not_after=late))
    await it.send(accept("r2", strategy=MultitaskStrategy.ROLLBACK))
    shown = worker.show(*TEXT, TEXT_END)
    await it.send(worker.command(c.FinishRun, shown, status=RunStatus.SUCCEEDED, messages=(ANSWER,)))
    messages = await it.rows("SELECT message_id, withdrawn FROM messages ORDER BY seq")
    assert [(m["message_id"], m["withdrawn"]) for m in messages] == [("m-r1", True), ("a1", True), ("m-r2", False)]


async def test_interrupt_cancels_the_active_run_keeps_its_text_and_goes_on_with_the_new_one(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    await it.send(worker.command(c.BeginStep, worker.show(*TEXT), steps=(STEP,)))
    await it.send(accept("r2", strategy=MultitaskStrategy.INTERRUPT))
    partial = c.StepRecord(key=STEP.key, outcome="cancelled", usage=USAGE.model_copy(update={"estimated": True}))
    await it.send(worker.command(c.RecordStep, worker.show(TEXT_END), records=(partial,), messages=(ANSWER,)))
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    statuses = {row["client_run_id"]: row["status"] for row in await it.rows("SELECT client_run_id, status FROM runs")}
    assert statuses == {"r1": "cancelled", "r2": "queued"}
    messages = await it.rows("SELECT message_id, withdrawn FROM messages ORDER BY seq")
    assert [(m["message_id"], m["withdrawn"]) for m in messages] == [("m-r1", False), ("a1", False), ("m-r2", False)]
    [call] = await it.rows("SELECT status, estimated, output_tokens FROM llm_calls")
    assert call == {"status": "cancelled", "estimated": True, "output_tokens": 5}
    assert isinstance(await it.send(start("r2")), c.StartAnswer)


async def test_a_changed_agent_row_counts_from_the_next_run_on(it: Actor) -> None:
    change = """INSERT INTO system_agents (agent_type, model_code, llm_params)
                VALUES ('answer', 'scripted', CAST(:p AS jsonb))
                ON CONFLICT (agent_type) DO UPDATE SET llm_params = excluded.llm_params"""
    temperature = """SELECT client_run_id, p.config #>> '{stages,answer,llm,params,temperature}' AS is
                     FROM runs JOIN pinned_configs p ON p.digest = config_digest"""
    for run_id, params in (("r1", '{"temperature": 0.1}'), ("r2", '{"temperature": 0.9}')):
        async with it.engine.begin() as db:
            await db.execute(text(change), {"p": params})
        await it.send(accept(run_id))
    pinned = {row["client_run_id"]: row["is"] for row in await it.rows(temperature)}
    assert pinned == {"r1": "0.1", "r2": "0.9"}


async def test_a_zombie_actor_commits_and_answers_nothing(it: Actor) -> None:
    await it.send(accept("r1"))
    zombie = it.mailboxes
    assert zombie is not None
    await it.take()
    await it.send(start("r1"))
    it.mailboxes, current = zombie, it.mailboxes
    delivered, reply = it.post(start("r1", process="w2"))
    await asyncio.wait_for(zombie.lost.wait(), 10)
    await zombie.close()
    it.mailboxes = current
    assert not delivered.fate.done()
    assert not reply.done()
    assert len(await it.rows("SELECT 1 FROM run_attempts")) == 1


async def test_a_late_command_is_not_accepted(it: Actor) -> None:
    with pytest.raises(TooLate):
        await it.send(accept("r1", not_after=utcnow().replace(year=2020)))
    assert await it.rows("SELECT 1 FROM sessions") == []


async def test_a_late_wakeup_of_an_ended_run_finds_the_next_one_waiting(it: Actor) -> None:
    """The run that it names is not the one that has the turn: there is nothing to read for it, and nothing to start."""
    await it.send(accept("r1"))
    await it.send(Worker.of("r1", await it.send(start("r1"))).command(c.FinishRun, status=RunStatus.SUCCEEDED))
    await it.send(accept("r2"))
    with pytest.raises(NotRunnable):
        await it.send(start("r1"))
    await it.send(start("r2"))


async def test_an_unreadable_message_is_set_aside_and_the_partition_goes_on(it: Actor) -> None:
    delivered, reply = it.post(b'{"type": "AcceptRun", "session_id": "nonsense"}')
    assert await asyncio.wait_for(delivered.fate, 10) == "reject"
    assert (await reply).error is not None
    await it.send(accept("r1"))


async def test_deleting_a_session_leaves_a_tombstone_with_the_cost_of_the_call_that_it_broke_off(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    await it.send(worker.command(c.BeginStep, worker.show(*TEXT), steps=(STEP,)))
    await it.send(c.DeleteSession(session_id=SESSION, user_id=USER, not_after=utcnow().replace(year=2100)))
    for table in ("messages", "runs", "event_segments", "llm_calls", "run_steps"):
        assert await it.rows(f"SELECT 1 FROM {table}") == []
    [session] = await it.rows("SELECT status, input_tokens, cost FROM sessions")
    assert session == {"status": "deleted", "input_tokens": 10, "cost": Decimal("0.010")}
    with pytest.raises(StaleEpoch):
        await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    delivered, reply = it.post(accept("r2"))
    assert (await reply).error is not None
    assert (await delivered.fate) == "ack"
