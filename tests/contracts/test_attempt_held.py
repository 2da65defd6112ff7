"""What travels with an attempt's commands: records that wait for the next one, and how much one may carry."""

from __future__ import annotations

import asyncio

import pytest

from callboard_runtime.domain.commands import (
    MAX_COMMAND_BYTES,
    AppendEvents,
    BeginStep,
    Command,
    FinishRun,
    RecordStep,
    ReleaseRun,
    RequestTools,
    StepRecord,
)
from callboard_runtime.entry import held as held_module
from callboard_runtime.errors import InvalidInput, TooLarge
from contracts.attempt_world import answered, begin, said, world


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
