"""Tools that run at once: each call runs once, is journaled, and its result goes back to the model."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from callboard_runtime.config.parts import ToolConfig
from callboard_runtime.errors import ConfigError, InvalidInput
from callboard_runtime.settings import Settings
from unit.crew_world import CREWAI_WARNS, brief, config, prepare, run, stage, tool

from .tools import ADD, PLAIN, scripted, with_tools

pytestmark = CREWAI_WARNS


async def test_a_direct_tool_runs_and_its_result_goes_back_to_the_model(settings: Settings) -> None:
    ran = await run(brief('call add with {"a": 1, "b": 2}', with_tools(ADD)), settings)
    assert ran.outcome is not None
    assert ran.outcome.text == 'The tool answered: {"sum":3}'
    assert [(step.kind, step.name) for step in ran.journal.begun] == [
        ("model", "answer"),
        ("tool", "add"),
        ("model", "answer"),
    ]
    call, result, answer = ran.journal.messages
    assert (call.role, result.role, answer.role) == ("assistant", "tool", "assistant")
    assert call.tool_calls[0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert result.tool_call_id == call.tool_calls[0]["id"] == ran.of("TOOL_CALL_RESULT")[0]["toolCallId"]
    assert "".join(event["delta"] for event in ran.of("TOOL_CALL_ARGS")) == '{"a": 1, "b": 2}'
    assert ran.of("TOOL_CALL_START")[0]["parentMessageId"] == call.message_id


async def test_a_recorded_tool_is_not_run_again(settings: Settings, ran_tools: list[Any]) -> None:
    given = brief('call add with {"a": 1}', with_tools(ADD))
    first = await run(given, settings)
    second = await run(dataclasses.replace(given, journal=first.journal.rows()), settings)
    assert second.outcome == first.outcome
    assert (second.sink.events, second.journal.begun, len(ran_tools)) == ([], [], 1)


async def test_after_a_recorded_tool_the_model_is_asked_on(settings: Settings, ran_tools: list[Any]) -> None:
    given = brief('call add with {"a": 1}', with_tools(ADD))
    first = await run(given, settings)
    second = await run(dataclasses.replace(given, journal=first.journal.rows()[:2]), settings)
    assert [step.kind for step in second.journal.begun] == ["model"]
    assert second.types[0] == "STEP_STARTED"
    assert "TOOL_CALL_START" not in second.types
    assert len(ran_tools) == 1


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ('call add with {"a": "one"}', 'argument a: "one" is not of type "integer"'),
        ("call add with {}", '"a" is a required property'),
        ('call add with {"a": 1, "c": 2}', "Additional properties"),
        ("call add with {not json}", "the arguments are not JSON"),
        ("call nothing with {}", "there is no tool 'nothing'"),
    ],
)
@pytest.mark.parametrize("tool_", [ADD, ADD.model_copy(update={"requires_approval": True})], ids=["direct", "approval"])
async def test_a_bad_call_is_told_to_the_model_alone(
    settings: Settings, ran_tools: list[Any], message: str, expected: str, tool_: ToolConfig
) -> None:
    given = brief(message, with_tools(tool_))
    ran = await run(given, settings)
    assert expected in ran.journal.recorded[1].result["content"]
    assert expected in ran.shown, "the model was told"
    assert not [kind for kind in ran.types if kind.startswith("TOOL_CALL")]
    assert [row.role for row in ran.journal.messages] == ["assistant"]
    assert ran_tools == []
    again = await run(dataclasses.replace(given, journal=ran.journal.rows()), settings)
    assert (again.outcome, again.sink.events, again.journal.begun) == (ran.outcome, [], [])
    assert ran.outcome is not None
    assert ran.outcome.status == "finished"


async def test_a_tool_of_another_agent_is_not_granted(settings: Settings, ran_tools: list[Any]) -> None:
    stages = stage("first", tools=["add"]), stage("answer", visible=True)
    ran = await run(brief('call add with {"a": 1}', config(*stages, tools={"add": ADD})), settings)
    contents = [event["content"] for event in ran.of("TOOL_CALL_RESULT")]
    assert contents == ['{"sum":1}']
    assert "Error: this agent was not granted the tool 'add'" in ran.shown
    assert len(ran_tools) == len(ran.of("TOOL_CALL_START")) == 1


MIXED = [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": "x"}}]


async def test_of_a_mixed_turn_the_valid_calls_are_shown_and_kept(settings: Settings, tmp_path: Path) -> None:
    own = scripted(settings, tmp_path, {"when": {}, "replies": [{"text": "So.", "tool_calls": MIXED}, {"text": "ok"}]})
    ran = await run(brief("go", with_tools(ADD)), own)
    [start], [result] = ran.of("TOOL_CALL_START"), ran.of("TOOL_CALL_RESULT")
    said, told, _ = ran.journal.messages
    assert [call["id"] for call in said.tool_calls] == [start["toolCallId"]] == [told.tool_call_id]
    assert result["content"] == told.content == '{"sum":1}'
    assert [len(step.result["tool_calls"]) for step in ran.journal.recorded if "tool_calls" in step.result] == [2, 0]


async def test_calls_of_an_answer_that_breaks_off_are_never_shown(settings: Settings, tmp_path: Path) -> None:
    calls = [{"name": "add", "arguments": {"a": 1}}, {"name": "add", "arguments": {"a": 2, "b": 123456789}}]
    broken = {"error": "disconnect", "only": 1, "after": 6, "text": "So.", "tool_calls": calls}
    own = scripted(settings, tmp_path, {"when": {}, "replies": [broken, {"text": "ok"}]})
    llm = own.llm.model_copy(update={"retries": 1})
    ran = await run(brief("go", with_tools(ADD)), own.model_copy(update={"llm": llm}))
    assert ran.journal.recorded[0].outcome == "failed"
    whole = next(step for step in ran.journal.recorded if (step.result or {}).get("tool_calls"))
    ids = [call["id"] for call in whole.result["tool_calls"]]
    assert [event["toolCallId"] for event in ran.of("TOOL_CALL_START")] == ids
    assert [event["toolCallId"] for event in ran.of("TOOL_CALL_END")] == ids
    assert ran.of("TEXT_MESSAGE_END")[0]["metadata"], "the text of the broken one was withdrawn"


async def test_long_arguments_come_in_pieces(settings: Settings) -> None:
    words = "x" * 20_000
    ran = await run(brief(f'call plain with {{"text": "{words}"}}', with_tools(PLAIN)), settings)
    pieces = [event["delta"] for event in ran.of("TOOL_CALL_ARGS")]
    assert len(pieces) == 3
    assert orjson.loads("".join(pieces)) == {"text": words}


@pytest.mark.parametrize(
    ("function", "fields", "expected"),
    [
        ("fails", {}, "Error: RuntimeError: it broke"),
        ("gives_up", {}, "Error: TimeoutError: the shop does not answer"),
        ("sleeps", {"timeout": 0.05}, "Error: no result after 0.05 seconds"),
        ("big", {}, "Error: the result has 400000 bytes"),
        ("plain", {}, "plain x\ufffd"),
        ("who", {}, "ada call_"),
    ],
)
async def test_what_a_tool_does_becomes_text(
    settings: Settings, function: str, fields: dict[str, Any], expected: str
) -> None:
    ran = await run(brief("call it", with_tools(tool("it", f"mytools:{function}", **fields))), settings)
    assert ran.of("TOOL_CALL_RESULT")[0]["content"].startswith(expected)


@pytest.mark.parametrize("function", ["mytools:absent", "no_such_module:x"])
async def test_a_tool_that_cannot_be_loaded_is_named(settings: Settings, function: str) -> None:
    with pytest.raises(ConfigError, match=r"tools\.yaml: lost\.function"):
        prepare(brief("hi", with_tools(tool("lost", function))), settings).runtime.build_crew()


async def test_a_backend_tool_with_a_schema_that_is_none_is_named(settings: Settings) -> None:
    broken = ADD.model_copy(update={"parameters": {"type": "object", "properties": {"a": {"type": "number!"}}}})
    with pytest.raises(ConfigError, match=r"tools\.yaml: add\.parameters: properties/a/type"):
        prepare(brief("hi", with_tools(broken)), settings).runtime.build_crew()


async def test_a_frontend_tool_without_a_schema_is_refused_by_name(settings: Settings) -> None:
    with pytest.raises(InvalidInput, match=r"tools\.0\.parameters"):
        prepare(brief("hi", tools=({"name": "x", "parameters": {"type": "nonsense"}},)), settings).runtime.build_crew()


async def test_direct_calls_of_a_turn_run_side_by_side(settings: Settings) -> None:
    (settings.config.dir / "pair.py").write_text(  # type: ignore[operator]
        "import threading\nbarrier = threading.Barrier(2, timeout=20)\n"
        "def one():\n    barrier.wait()\n    return 'one'\n"
        "def two():\n    barrier.wait()\n    return 'two'\n"
    )
    ran = await run(brief("call one and two", with_tools(tool("one", "pair:one"), tool("two", "pair:two"))), settings)
    assert [event["content"] for event in ran.of("TOOL_CALL_RESULT")] in (["one", "two"], ["two", "one"])
    assert ran.shown == "The tools answered, and the last one said: two"


async def test_a_tool_is_finished_and_recorded_when_the_run_is_cancelled_in_it(settings: Settings) -> None:
    (settings.config.dir / "slow.py").write_text(  # type: ignore[operator]
        "import threading\nentered = threading.Event()\nleave = threading.Event()\n"
        "def work():\n    entered.set()\n    leave.wait(20)\n    return 'done'\n"
    )
    ran = prepare(brief("call work", with_tools(tool("work", "slow:work"))), settings)
    task = asyncio.create_task(ran.runtime.run())
    from callboard_runtime.tools.registry import load_function

    module = load_function("work", "slow:work", settings.config.dir).__globals__
    entered: threading.Event = module["entered"]
    assert await asyncio.to_thread(entered.wait, 20)
    ran.runtime.stop("cancel")
    module["leave"].set()
    assert (await task).status == "cancelled"
    assert ran.journal.recorded[-1].result["content"] == "done"
    ran.check_stream()


async def test_the_last_allowed_model_call_gets_no_tools(settings: Settings, tmp_path: Path) -> None:
    replies = [{"text": "t", "tool_calls": [{"name": "plain"}]}]
    eager = scripted(settings, tmp_path, {"when": {}, "replies": replies})
    ran = await run(brief("go", with_tools(PLAIN, max_iterations=3)), eager)
    assert sum(step.kind == "model" for step in ran.journal.begun) == 3
    assert len(ran.of("TOOL_CALL_START")) == len(ran.of("TOOL_CALL_RESULT")) == 2, "what is not run is not shown"
    assert ran.journal.messages[-1].tool_calls == ()
    assert ran.outcome is not None
    assert ran.outcome.text == "t"


def test_a_tool_call_survives_the_journals_json() -> None:
    from callboard_runtime.llm.messages import ModelAnswer, ToolCall

    answer = ModelAnswer("text", "why", (ToolCall("call_1", "ui.x", '{"a":1}', "w1", "ui_x"),), "tool_calls", "m")
    assert ModelAnswer.from_result(orjson.loads(orjson.dumps(answer.to_result()))) == answer
