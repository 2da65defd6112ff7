"""An attempt's commands, as an actor sees them: their order, their repetition, and what follows from the answers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import pytest

from callboard_runtime.crew.pause import RunReleased
from callboard_runtime.domain.commands import (
    BeginStep,
    FinishRun,
    RecordStep,
    ReleaseRun,
    RequestTools,
    StepRecord,
)
from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.entry import attempt as module
from callboard_runtime.entry.attempt import Halt
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.errors import InvalidInput, RunCancelling, StaleEpoch, Unavailable
from callboard_runtime.stream.tail import TailResult, TailStore
from contracts.attempt_world import EPOCH, answered, begin, custom, world
from services import TcpProxy


async def test_commands_count_and_carry_the_events_since_the_last(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.emitter.emit(custom(1))
        await w.attempt.begin(begin("a"))
        w.emitter.emit(custom(2))
        w.emitter.emit(custom(3))
        await w.attempt.record(StepRecord(key="a", result="x"))
        await w.attempt.begin(begin("b"))
        w.emitter.emit(custom(4))
        await w.attempt.finish()
    first, second, third, last = w.log.taken
    assert isinstance(first, BeginStep)
    assert isinstance(second, RecordStep)
    assert isinstance(third, BeginStep)
    assert isinstance(last, FinishRun)
    assert [first.steps, second.records, third.steps] == [
        (begin("a"),),
        (StepRecord(key="a", result="x"),),
        (begin("b"),),
    ]
    sent = [(c.events.first_seq, c.events.last_seq) if c.events else None for c in w.log.taken]
    assert sent == [(2, 2), (3, 4), None, (5, 5)]
    assert (last.status, last.error_code) == (RunStatus.SUCCEEDED, None)
    assert {c.epoch for c in w.log.taken} == {EPOCH}


async def test_only_one_command_is_under_way_at_a_time(broker_url: str) -> None:
    async with world(broker_url) as w:
        await asyncio.gather(*(w.attempt.begin(begin(str(n))) for n in range(20)))
    assert [c.ordinal for c in w.log.taken] == list(range(1, 21))
    assert len(w.actor.commands) == 20


async def test_a_command_without_reply_is_repeated_unchanged(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REPLY_TIMEOUT", 0.3)
    async with world(broker_url) as w:
        w.log.refuse_next = [None, None]
        w.emitter.emit(custom(1))
        sending = asyncio.create_task(w.attempt.begin(begin("a")))
        await w.actor.until(1)
        w.emitter.emit(custom(2))
        await sending
        await w.attempt.finish()
        assert len(w.log.taken) == 2
        assert len({message.body for message in w.actor.messages[:-1]}) == 1
    assert len(w.log.lines) == 3


async def test_a_cut_connection_loses_and_doubles_nothing(
    broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    proxy = await tcp_proxy(broker_url)
    async with world(broker_url, through=proxy.url(broker_url)) as w:
        for number in range(8):
            w.emitter.emit(custom(number))
            sending = asyncio.create_task(w.attempt.begin(begin(str(number))))
            if number % 2:
                await w.actor.until(len(w.actor.commands) + 1)
                await proxy.disconnect_all()
            await sending
        await w.attempt.finish()
    assert [c.ordinal for c in w.log.taken] == list(range(1, 10))
    assert len(w.log.lines) == 9


async def test_an_unavailable_actor_is_waited_for(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.log.refuse_next = [Unavailable(), Unavailable()]
        await w.attempt.begin(begin("a"))
        assert len(w.actor.messages) == 3
        assert len({message.body for message in w.actor.messages}) == 1


async def test_waiting_ends_past_the_deadline(broker_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAST_DEADLINE", 0.2)
    async with world(broker_url, deadline=0) as w:
        w.log.refuse_next = [Unavailable()] * 100
        with pytest.raises(Unavailable):
            await w.attempt.begin(begin("a"))
        assert w.attempt.halt_reason is Halt.LOST, "nobody knows which ordinal is the next"


async def test_a_stale_epoch_ends_everything(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.log.refuse_next = [StaleEpoch()]
        with pytest.raises(StaleEpoch):
            await w.attempt.begin(begin("a"))
        assert w.attempt.halt_reason is Halt.LOST
        w.emitter.emit(custom(1))
        assert w.emitter.pending() is None
        for refused in (w.attempt.begin(begin("b")), w.attempt.record(StepRecord(key="a")), w.attempt.finish()):
            with pytest.raises(StaleEpoch):
                await refused
        assert len(w.actor.commands) == 1


class Overtaken(TailStore):
    """The session's next run tells Redis of its epoch before the events of this one come there."""

    begun: asyncio.Event

    async def append(self, session_id: uuid.UUID, batch: EventBatch, *, committed: int, create: bool) -> TailResult:
        await self.begun.wait()
        await self.fence(session_id, batch.epoch + 1)
        return await super().append(session_id, batch, committed=committed, create=create)


async def test_an_end_that_the_next_run_overtakes_in_redis_is_an_end(
    broker_url: str, redis_url: str, redis_prefix: str
) -> None:
    redis = Overtaken.from_url(redis_url, redis_prefix)
    redis.begun = asyncio.Event()
    async with world(broker_url, redis=redis) as w:
        redis.begun = w.log.ended
        w.emitter.emit(custom(1))
        await w.attempt.finish()
        assert w.attempt.halt_reason is None
        assert [type(c) for c in w.log.taken] == [FinishRun]
    assert len(w.log.lines) == 2


async def test_a_closed_attempt_sends_nothing_whoever_asks(broker_url: str) -> None:
    async with world(broker_url) as w:
        reasons: list[Halt] = []
        w.attempt.on_halt(reasons.append)
        await w.attempt.begin(begin("tool:1"))
        await w.attempt.close()
        for late in (w.attempt.record(StepRecord(key="tool:1", result="x")), w.attempt.record(answered("a"))):
            with pytest.raises(StaleEpoch):
                await late
        with pytest.raises(StaleEpoch):
            await w.attempt.begin(begin("b"))
        assert [type(c) for c in w.actor.commands] == [BeginStep]
        assert reasons == [], "nobody conducts it any more"


async def test_a_refused_command_does_not_use_up_its_ordinal(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.log.refuse_next = [InvalidInput("no")]
        with pytest.raises(InvalidInput):
            await w.attempt.record(StepRecord(key="a"))
        await w.attempt.finish(error_code="X", error_message="y")
    (last,) = w.log.taken
    assert isinstance(last, FinishRun)
    assert (last.ordinal, last.status, last.error_code, last.error_message) == (1, RunStatus.FAILED, "X", "y")


async def test_a_cancelling_run_grants_no_step_but_takes_records_and_the_end(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.log.cancelling = True
        with pytest.raises(RunCancelling):
            await w.attempt.begin(begin("a"))
        with pytest.raises(RunCancelling):
            await w.attempt.begin(begin("b"))
        await w.attempt.record(StepRecord(key="a", outcome="cancelled"))
        await w.attempt.finish()
        assert [type(c) for c in w.log.taken] == [BeginStep, RecordStep, FinishRun]


async def test_a_cancelled_caller_leaves_its_command_to_be_finished(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.log.refuse_next = [Unavailable(), Unavailable()]
        caller = asyncio.create_task(w.attempt.record(StepRecord(key="a")))
        await w.actor.until(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await w.attempt.finish()
        assert [type(c) for c in w.log.taken] == [RecordStep, FinishRun]


async def test_a_worker_that_shuts_down_begins_nothing_and_releases(broker_url: str) -> None:
    async with world(broker_url) as w:
        reasons: list[Halt] = []
        w.attempt.halt(Halt.SHUTDOWN)
        w.attempt.on_halt(reasons.append)
        with pytest.raises(RunReleased):
            await w.attempt.begin(begin("a"))
        await w.attempt.record(StepRecord(key="z"))
        w.attempt.halt(Halt.CANCELLED)
        w.attempt.halt(Halt.SHUTDOWN)
        assert reasons == [Halt.SHUTDOWN, Halt.CANCELLED]
        await w.attempt.release()
        assert [type(c) for c in w.log.taken] == [RecordStep, ReleaseRun]


async def test_a_pause_carries_its_calls_and_closings(broker_url: str) -> None:
    call = PendingToolCall(tool_call_id="c1", tool_name="t")
    async with world(broker_url) as w:
        w.emitter.emit({"type": "TOOL_CALL_END", "toolCallId": "c1"})
        await w.attempt.request_tools([call])
    (pause,) = w.log.taken
    assert isinstance(pause, RequestTools)
    assert pause.calls == (call,)
    assert pause.events is not None
    assert pause.events.last_seq == 2


async def test_the_journal_finds_what_was_recorded_and_knows_what_nobody_asked_for(broker_url: str) -> None:
    def row(key: str, status: str) -> JournalRow:
        return JournalRow(key, "model", "answer", "d", status, {"text": key}, 3)

    rows = (row("a", "recorded"), row("b", "lost"), row("c", "failed"), row("d", "unknown"), row("e", "recorded"))
    async with world(broker_url, journal=rows) as w:
        assert w.attempt.unreplayed() == ("a", "e")
        found = {key: w.attempt.find(key) for key in "abcdx"}
        assert {key for key, value in found.items() if value} == {"a", "c", "d"}
        assert found["a"] == rows[0]
        assert w.attempt.unreplayed() == ("e",)
