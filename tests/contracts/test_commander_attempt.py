"""An attempt's commands, as an actor sees them: their order, their repetition, and what follows from the answers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.crew.pause import RunReleased
from callboard_runtime.domain.commands import (
    MAX_COMMAND_BYTES,
    AppendEvents,
    BeginStep,
    Command,
    DoneAnswer,
    FinishRun,
    RecordStep,
    ReleaseRun,
    Reply,
    RequestTools,
    StepAnswer,
    StepBegin,
    StepRecord,
    refusal,
)
from callboard_runtime.domain.event_batch import ORIGIN, EventBatch, batch
from callboard_runtime.domain.ids import partition_of, utcnow
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.entry import attempt as module
from callboard_runtime.entry import held as held_module
from callboard_runtime.entry.attempt import Attempt, Halt, Hold
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.errors import (
    CallboardError,
    InvalidInput,
    RunCancelling,
    StaleEpoch,
    TooLarge,
    Unavailable,
)
from callboard_runtime.stream.emitter import EventEmitter, Leg
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailResult, TailStore
from contracts.peers import ScriptedActor, scripted_actor
from services import TcpProxy

SESSION, RUN, EPOCH = uuid.UUID(int=5), uuid.UUID(int=6), 4
OPENING = batch(EPOCH, 1, [{"type": "RUN_STARTED"}])


class Log:
    """An actor's books: takes each ordinal once, and answers with what is committed."""

    def __init__(self) -> None:
        self.taken: list[Command] = []
        self.lines: list[str] = list(OPENING.lines)
        self.refuse_next: list[CallboardError | None] = []  # None: takes effect, but nobody hears of it
        self.cancelling = False
        self.ended = asyncio.Event()

    async def __call__(self, command: Any) -> Reply | None:
        refused = self.refuse_next.pop(0) if self.refuse_next else NothingRefused
        if isinstance(refused, CallboardError):
            return refusal(refused)
        ordinal = len(self.taken) + 1
        assert command.ordinal in (ordinal, ordinal - 1), "an ordinal was skipped"
        if command.ordinal == ordinal:
            self.taken.append(command)
            self._commit(command)
        if refused is None:
            return None
        if isinstance(command, FinishRun | RequestTools | ReleaseRun):
            self.ended.set()
            return Reply(answer=DoneAnswer())
        return Reply(answer=StepAnswer(committed_seq=len(self.lines), cancelling=self.cancelling))

    def _commit(self, command: Any) -> None:
        if command.events is not None:
            assert command.events.first_seq <= len(self.lines) + 1, "events were skipped"
            self.lines += command.events.after(len(self.lines)).lines


class NothingRefused:
    pass


class World:
    def __init__(self, attempt: Attempt, emitter: EventEmitter, actor: ScriptedActor, log: Log) -> None:
        self.attempt, self.emitter, self.actor, self.log = attempt, emitter, actor, log


@asynccontextmanager
async def world(
    url: str,
    *,
    through: str | None = None,
    deadline: float = 600,
    journal: tuple[JournalRow, ...] = (),
    redis: TailStore | None = None,
) -> AsyncIterator[World]:
    """An attempt and its actor; usually without Redis, which neither needs."""
    log = Log()
    tail = GuardedTail(redis or TailStore.from_url("redis://127.0.0.1:1/0", "nobody"))
    async with scripted_actor(url, log, partition_of(SESSION)) as actor:
        commands = await CommandClient.connect(through or url, "test")
        lanes = await LanePublisher.connect(url, "test-lanes")
        leg = Leg(SESSION, RUN, 1, ORIGIN)
        emitter = EventEmitter(leg, OPENING, tail=tail, lanes=lanes, window=lambda: 0.0)
        hold = Hold(leg, EPOCH, utcnow() + timedelta(seconds=deadline))
        attempt = Attempt(hold, commands, emitter, journal)
        try:
            yield World(attempt, emitter, actor, log)
        finally:
            await attempt.close()
            await lanes.close()
            await commands.close()
            await tail.close()


def begin(key: str) -> StepBegin:
    return StepBegin(key=key, kind="model", name="answer", digest="d")


def custom(value: Any) -> dict[str, Any]:
    return {"type": "CUSTOM", "name": "n", "value": value}


async def test_commands_count_and_carry_the_events_since_the_last(broker_url: str) -> None:
    async with world(broker_url) as w:
        w.emitter.emit(custom(1))
        await w.attempt.begin(begin("a"))
        w.emitter.emit(custom(2))
        w.emitter.emit(custom(3))
        await w.attempt.record(StepRecord(key="a", result="x"))
        await w.attempt.begin(begin("b"))
        w.emitter.emit(custom(4))
        await w.attempt.finish(result={"r": 1})
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
    assert (last.status, last.result, last.error_code) == (RunStatus.SUCCEEDED, {"r": 1}, None)
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


async def test_a_long_tail_travels_in_several_commands(broker_url: str) -> None:
    quotes = '"' * 120_000  # escaped in the line, and once more in the command
    async with world(broker_url) as w:
        for number in range(12):
            w.emitter.emit({"type": "CUSTOM", "name": str(number), "value": quotes})
        result = "r" * 600_000
        await w.attempt.record(StepRecord(key="a", result=result))
        await w.attempt.finish()
        assert all(len(message.body) <= MAX_COMMAND_BYTES for message in w.actor.messages)
    assert len(w.log.lines) == 13
    kinds = [type(c) for c in w.log.taken]
    assert kinds[-2:] == [RecordStep, FinishRun]
    assert set(kinds[:-2]) == {AppendEvents}


async def test_a_command_that_is_too_large_by_itself_is_refused_and_the_run_goes_on(broker_url: str) -> None:
    async with world(broker_url) as w:
        with pytest.raises(TooLarge):
            await w.attempt.record(StepRecord(key="a", result="x" * MAX_COMMAND_BYTES))
        await w.attempt.finish(error_code="TOO_LARGE", error_message="")
        assert [type(c) for c in w.log.taken] == [FinishRun]


async def test_a_tail_that_grows_is_committed_without_a_step(broker_url: str) -> None:
    async with world(broker_url) as w:
        for number in range(40):
            w.emitter.emit({"type": "CUSTOM", "name": str(number), "value": "x" * 20_000})
            await w.emitter.drain()
        await w.attempt.finish()
        assert AppendEvents in {type(c) for c in w.log.taken}
    assert len(w.log.lines) == 41


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


# -- records that wait for the next command ---------------------------------------------------------------------------


def answered(key: str, text: str = "hello") -> StepRecord:
    return StepRecord(key=key, result={"text": text}, usage=CallUsage(provider="p", model="m"))


def said(text: str) -> NewMessage:
    return NewMessage(message_id=text, role="assistant", content=text)


async def test_a_models_answer_travels_with_the_next_command(broker_url: str) -> None:
    async with world(broker_url) as w:
        await w.attempt.begin(begin("a"))
        await w.attempt.record(answered("a"), messages=[said("one")])
        await w.attempt.begin(begin("b"))
        await w.attempt.record(answered("b"), messages=[said("two")])
        await w.attempt.finish()
    _, second, last = w.log.taken
    assert isinstance(second, BeginStep)
    assert ([r.key for r in second.records], [m.content for m in second.messages]) == (["a"], ["one"])
    assert isinstance(last, FinishRun)
    assert ([r.key for r in last.records], [m.content for m in last.messages]) == (["b"], ["two"])


@pytest.mark.parametrize("kind", [RequestTools, ReleaseRun])
async def test_a_models_answer_travels_with_a_pause_and_a_release(broker_url: str, kind: type[Command]) -> None:
    async with world(broker_url) as w:
        await w.attempt.begin(begin("a"))
        await w.attempt.record(answered("a"))
        await (w.attempt.release() if kind is ReleaseRun else w.attempt.request_tools(()))
    last = w.log.taken[-1]
    assert isinstance(last, RequestTools | ReleaseRun)
    assert isinstance(last, kind)
    assert [record.key for record in last.records] == ["a"]


async def test_an_answer_that_nothing_takes_along_travels_alone(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(held_module, "LINGER", 0.01)
    async with world(broker_url) as w:
        await w.attempt.begin(begin("a"))
        await w.attempt.record(answered("a"))
        await w.actor.until(2)
        await w.attempt.finish()
    _, second, last = w.log.taken
    assert isinstance(second, RecordStep)
    assert [record.key for record in second.records] == ["a"]
    assert isinstance(last, FinishRun)
    assert last.records == ()


async def test_what_a_refused_command_carried_travels_with_the_next(broker_url: str) -> None:
    async with world(broker_url) as w:
        await w.attempt.begin(begin("a"))
        await w.attempt.record(answered("a"))
        w.log.refuse_next = [InvalidInput("no")]
        with pytest.raises(InvalidInput):
            await w.attempt.begin(begin("b"))
        await w.attempt.finish(error_code="X", error_message="x")
    last = w.log.taken[-1]
    assert isinstance(last, FinishRun)
    assert [record.key for record in last.records] == ["a"]


async def test_answers_that_come_while_a_command_waits_never_outgrow_the_next(broker_url: str) -> None:
    keys = [f"answer {number}" for number in range(60)]
    async with world(broker_url) as w:
        await w.attempt.begin(*map(begin, keys))
        await asyncio.gather(*(w.attempt.record(answered(key, "x" * 20_000)) for key in keys))
        await w.attempt.finish()
    assert isinstance(w.log.taken[-1], FinishRun)
    carried = [record.key for command in w.log.taken for record in getattr(command, "records", ())]
    assert sorted(carried) == sorted(keys)


async def test_what_a_tool_came_to_and_what_is_large_is_recorded_at_once(broker_url: str) -> None:
    async with world(broker_url) as w:
        await w.attempt.begin(begin("a"))
        await w.attempt.record(answered("a"))
        await w.attempt.record(StepRecord(key="tool:1", result={"content": "done"}))
        await w.attempt.record(answered("b", "x" * held_module.MAX_HELD_BYTES))
    _, second, third = w.log.taken
    assert isinstance(second, RecordStep)
    assert [record.key for record in second.records] == ["a", "tool:1"]
    assert isinstance(third, RecordStep)
    assert [record.key for record in third.records] == ["b"]
