"""Runs of whole crews on the scripted model, with an in-memory journal: what is shown, recorded, metered, replayed."""

from __future__ import annotations

import asyncio
import dataclasses
from decimal import Decimal
from typing import Any

import pytest

from callboard_runtime.crew.memory_journal import MemoryJournal
from callboard_runtime.crew.pause import ReplayDiverged
from callboard_runtime.crew.runtime import CrewAIRuntime, prepare_loop
from callboard_runtime.domain.commands import StepBegin
from callboard_runtime.entry.brief import HistoryMessage
from callboard_runtime.errors import ConfigError, RunCancelling, StaleEpoch
from callboard_runtime.llm.errors import ModelAuth, ModelUnavailable
from waiting import until

from .crew_world import CREWAI_WARNS, SCRIPTED, brief, config, prepare, quick, run, scripts, stage

pytestmark = CREWAI_WARNS

TWO_STAGES = config(stage("intent"), stage("answer", visible=True))


def test_a_crew_is_built_from_the_configuration_alone() -> None:
    crew = CrewAIRuntime(TWO_STAGES).build_crew(message="What is {this}?")
    assert [agent.role for agent in crew.agents] == ["intent agent", "answer agent"]
    assert [task.name for task in crew.tasks] == ["intent", "answer"]
    assert crew.tasks[1].description == "What is {this}?"


async def test_one_stage_streams_its_text_and_records_it() -> None:
    ran = await run(brief("count to 3"))
    assert ran.outcome is not None
    assert (ran.outcome.status, ran.outcome.text, ran.shown) == ("finished", "1 2 3", "1 2 3")
    assert ran.types == [
        "STEP_STARTED",
        "TEXT_MESSAGE_START",
        *["TEXT_MESSAGE_CONTENT"] * 3,
        "TEXT_MESSAGE_END",
        "STEP_FINISHED",
    ]
    (message,) = ran.journal.messages
    assert (message.role, message.content) == ("assistant", "1 2 3")
    assert message.message_id == ran.of("TEXT_MESSAGE_START")[0]["messageId"]


async def test_a_hidden_stage_shows_a_step_but_no_text_and_makes_no_message() -> None:
    ran = await run(brief("count to 2", TWO_STAGES))
    assert [(event["type"], event["stepName"]) for event in ran.sink.events if "stepName" in event] == [
        ("STEP_STARTED", "intent"),
        ("STEP_FINISHED", "intent"),
        ("STEP_STARTED", "answer"),
        ("STEP_FINISHED", "answer"),
    ]
    assert ran.shown == "1 2"
    assert [message.content for message in ran.journal.messages] == ["1 2"]
    assert [step.name for step in ran.journal.begun] == ["intent", "answer"]


async def test_every_request_is_begun_before_and_metered_after() -> None:
    ran = await run(brief("say 10 tokens"))
    (begun,), (record,) = ran.journal.begun, ran.journal.recorded
    assert begun.key == record.key
    assert (begun.kind, begun.provider, begun.input_price) == ("model", "callboard-scripted", "0.001")
    assert record.usage is not None
    assert record.usage.output_tokens == 10
    assert record.usage.cost == record.usage.input_tokens * Decimal("0.001") + 10 * Decimal("0.002")
    assert not record.usage.estimated


async def test_an_unknown_price_is_null(tmp_path: Any) -> None:
    unpriced = SCRIPTED.model_copy(update={"input_price": None, "output_price": None})
    ran = await run(brief("hi", config(stage("answer", visible=True, llm=unpriced))))
    usage = ran.journal.recorded[0].usage
    assert usage is not None
    assert usage.cost is None


async def test_braces_from_the_user_stay_as_they_are() -> None:
    text = "say {this} {tools} {{that}} {input}"
    ran = await run(brief(text))
    assert ran.shown.endswith(text)


async def test_the_history_is_sent_between_system_prompt_and_task(tmp_path: Any, monkeypatch: Any) -> None:
    seen = _spy_on_requests(monkeypatch)
    past = (HistoryMessage("user", "My name is Ada."), HistoryMessage("assistant", "Hello Ada."))
    await run(brief("count to 1", config(stage("intent", task="Name the intent."), stage("answer", visible=True)),
                    history=past))  # fmt: skip
    intent, answer = seen
    assert [message["role"] for message in intent] == ["system", "user", "assistant", "user", "user"]
    assert intent[3]["content"] == "count to 1"
    assert "Name the intent." in intent[4]["content"]
    # The second stage's prompt is the message itself, so it is not sent twice.
    assert [message["role"] for message in answer] == ["system", "user", "assistant", "user"]
    assert "count to 1" in answer[3]["content"]


def _spy_on_requests(monkeypatch: Any) -> list[list[dict[str, Any]]]:
    from callboard_runtime.llm.libraries import litellm

    seen: list[list[dict[str, Any]]] = []
    real = litellm.acompletion

    async def spy(**arguments: Any) -> Any:
        seen.append(arguments["messages"])
        return await real(**arguments)

    monkeypatch.setattr(litellm, "acompletion", spy)
    return seen


# -- replay -----------------------------------------------------------------------------------------------------------


async def test_a_replay_is_silent_and_asks_nobody() -> None:
    given = brief("count to 3", TWO_STAGES)
    first = await run(given)
    second = await run(dataclasses.replace(given, journal=first.journal.rows()))
    assert second.outcome == first.outcome
    assert (second.sink.events, second.journal.begun) == ([], [])


async def test_a_new_attempt_goes_live_where_the_dead_one_stopped() -> None:
    given = brief("count to 3", TWO_STAGES)
    first = await run(given)
    intent = [row for row in first.journal.rows() if row.name == "intent"]
    second = await run(dataclasses.replace(given, journal=tuple(intent)))
    assert [step.name for step in second.journal.begun] == ["answer"]
    assert [event["stepName"] for event in second.of("STEP_STARTED")] == ["answer"]
    assert second.journal.begun[0].key == first.journal.begun[1].key
    assert second.journal.messages[0].message_id != first.journal.messages[0].message_id


async def test_a_begun_and_lost_call_is_repeated() -> None:
    given = brief("count to 3")
    first = await run(given)
    lost = dataclasses.replace(first.journal.rows()[0], status="lost", result=None)
    second = await run(dataclasses.replace(given, journal=(lost,)))
    assert len(second.journal.begun) == 1
    assert second.shown == "1 2 3"


async def test_a_drifted_prompt_is_refused_by_name() -> None:
    first = await run(brief("count to 3"))
    drifted = brief("count to 3", config(stage("answer", visible=True, task="Please: {message}")))
    second = prepare(dataclasses.replace(drifted, journal=first.journal.rows()))
    with pytest.raises(ReplayDiverged, match=first.journal.begun[0].key):
        await second.runtime.run()
    assert second.journal.begun == []
    assert second.sink.events == []


async def test_rows_that_nobody_asked_for_are_an_error() -> None:
    given = brief("count to 3")
    first = await run(given)
    (row,) = first.journal.rows()
    other = dataclasses.replace(row, key="tool:never", kind="tool")
    with pytest.raises(ReplayDiverged, match="tool:never"):
        await prepare(dataclasses.replace(given, journal=(row, other))).runtime.run()


async def test_the_same_request_twice_has_two_keys() -> None:
    twins = config(stage("one"), stage("answer", visible=True))
    ran = await run(brief("count to 1", twins))
    keys = [step.key for step in ran.journal.begun]
    assert len(set(keys)) == 2
    assert all(key.endswith("#1!1") for key in keys)


# -- failure ----------------------------------------------------------------------------------------------------------


async def test_a_failed_try_is_recorded_and_the_next_one_answers() -> None:
    ran = await run(brief("fail 500 once"), quick(retries=1))
    assert [record.outcome for record in ran.journal.recorded] == ["failed", "recorded"]
    assert [step.key[-2:] for step in ran.journal.begun] == ["!1", "!2"]
    assert ran.journal.recorded[0].error == "MODEL_UNAVAILABLE"
    assert [event["messageId"] for event in ran.of("TEXT_MESSAGE_END")][-1] == ran.journal.messages[0].message_id


async def test_a_try_that_broke_off_in_the_middle_is_withdrawn_and_estimated() -> None:
    ran = await run(brief("fail disconnect once"), quick(retries=1))
    ends = ran.of("TEXT_MESSAGE_END")
    assert ["metadata" in end for end in ends] == [True, False]
    assert len({end["messageId"] for end in ends}) == 2
    failed, recorded = ran.journal.recorded
    assert failed.usage is not None
    assert failed.usage.estimated
    assert failed.usage.output_tokens > 0
    assert recorded.result["text"] == ran.journal.messages[0].content


async def test_a_replay_finds_the_try_that_succeeded() -> None:
    given = brief("fail 429 once")
    first = await run(given, quick(retries=1))
    second = await run(dataclasses.replace(given, journal=first.journal.rows()), quick(retries=1))
    assert second.journal.begun == []
    assert second.outcome == first.outcome


async def test_all_tries_fail_and_the_stream_is_closed() -> None:
    ran = prepare(brief("fail disconnect after 3"), quick(retries=1))
    with pytest.raises(ModelUnavailable) as caught:
        await ran.runtime.run()
    ran.check_stream()
    assert caught.value.code == "MODEL_UNAVAILABLE"
    assert [record.outcome for record in ran.journal.recorded] == ["failed", "failed"]


async def test_a_refused_key_is_not_tried_again() -> None:
    ran = prepare(brief("fail 401"), quick(retries=3))
    with pytest.raises(ModelAuth, match="CALLBOARD_LLM__PROVIDER_KEYS__CALLBOARD_SCRIPTED"):
        await ran.runtime.run()
    assert len(ran.journal.begun) == 1


async def test_a_fallback_answers_when_the_model_fails_for_good(tmp_path: Any) -> None:
    llm = SCRIPTED.model_copy(update={"fallbacks": (SCRIPTED.model_copy(update={"model": "callboard-scripted/b"}),)})
    ran = await run(brief("fail 401 once", config(stage("answer", visible=True, llm=llm))))
    assert [step.model for step in ran.journal.begun] == ["callboard-scripted/default", "callboard-scripted/b"]
    assert ran.outcome is not None
    assert ran.outcome.status == "finished"


async def test_a_missing_key_is_an_error_before_any_request() -> None:
    llm = SCRIPTED.model_copy(update={"provider": "openai", "model": "openai/gpt-5-mini"})
    ran = prepare(brief("hi", config(stage("answer", visible=True, llm=llm))))
    with pytest.raises(ConfigError, match="CALLBOARD_LLM__PROVIDER_KEYS__OPENAI"):
        await ran.runtime.run()
    assert ran.journal.begun == []


@pytest.mark.parametrize("error", [StaleEpoch, RunCancelling])
async def test_what_the_journal_raises_stops_the_crew_at_once(error: type[Exception]) -> None:
    class Refusing(MemoryJournal):
        async def begin(self, *steps: StepBegin) -> None:
            raise error

    ran = prepare(brief("count to 3"), journal=Refusing())
    if error is RunCancelling:
        assert (await ran.runtime.run()).status == "cancelled"
    else:
        with pytest.raises(error):
            await ran.runtime.run()
    assert ran.shown == ""


# -- stopping ---------------------------------------------------------------------------------------------------------


async def test_a_cancel_keeps_the_partial_text_and_an_estimate() -> None:
    ran = prepare(brief("say 5000 tokens at 5 ms"))
    task = asyncio.create_task(ran.runtime.run())
    await until(lambda: ran.shown.count(" ") >= 3)
    ran.runtime.stop("cancel")
    outcome = await task
    assert (outcome.status, outcome.text) == ("cancelled", ran.shown)
    ran.check_stream()
    (record,) = ran.journal.recorded
    assert record.outcome == "cancelled"
    assert record.usage is not None
    assert record.usage.estimated
    assert [message.content for message in ran.journal.messages] == [ran.shown]


async def test_a_cancelled_task_can_still_settle() -> None:
    ran = prepare(brief("say 5000 tokens at 5 ms"))
    task = asyncio.create_task(ran.runtime.run())
    await until(lambda: ran.shown.count(" ") >= 3)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ran.check_stream()
    await ran.runtime.settle()
    await ran.runtime.settle()
    assert [record.outcome for record in ran.journal.recorded] == ["cancelled"]


async def test_a_release_waits_for_the_step_boundary() -> None:
    ran = prepare(brief("say 40 tokens at 5 ms", config(stage("first", visible=True), stage("answer", visible=True))))
    task = asyncio.create_task(ran.runtime.run())
    await until(lambda: ran.shown)
    ran.runtime.stop("release")
    assert (await task).status == "released"
    assert [record.outcome for record in ran.journal.recorded] == ["recorded"]
    ran.check_stream()


async def test_a_cancel_ends_a_hanging_model() -> None:
    ran = prepare(brief("hang after 2"))
    task = asyncio.create_task(ran.runtime.run())
    await until(lambda: "token2" in ran.shown)
    ran.runtime.stop("cancel")
    assert (await task).status == "cancelled"


# -- many -------------------------------------------------------------------------------------------------------------


async def test_a_hundred_runs_at_once_do_not_mix() -> None:
    prepare_loop(asyncio.get_running_loop(), 100)
    runs = await asyncio.gather(*(run(brief(f"count to {n} at 1 ms", TWO_STAGES)) for n in range(1, 101)))
    assert [ran.shown for ran in runs] == [" ".join(map(str, range(1, n + 1))) for n in range(1, 101)]
    assert [ran.journal.recorded[1].usage.output_tokens for ran in runs] == list(range(1, 101))


async def test_scripts_of_ones_own_come_before_the_packaged_ones(tmp_path: Any) -> None:
    own = scripts(tmp_path / "s", {"when": {"message": "^hello"}, "replies": [{"text": "own: ${message}"}]})
    ran = await run(brief("hello you"), quick(scripts=str(own)))
    assert ran.shown == "own: hello you"
