"""Tool calls of a crew: direct ones run once and are journaled, the others pause the turn once, delegations nest."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from pathlib import Path
from typing import Any

import orjson
import pytest

from callboard_runtime.config.parts import ToolConfig
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.errors import ConfigError, InvalidInput
from callboard_runtime.settings import Settings

from .crew_world import CREWAI_WARNS, Ran, brief, config, prepare, run, scripts, stage, tool

pytestmark = CREWAI_WARNS

MODULE = """
import asyncio
from callboard_runtime.tools.spec import ToolContext

RUNS = []

async def add(a, b=0):
    RUNS.append(("add", a, b))
    return {"sum": a + b}

def plain(text="x"):
    RUNS.append(("plain", text))
    return f"plain {text}\\x00"

def who(context: ToolContext):
    return f"{context.user_id} {context.tool_call_id}"

def fails():
    raise RuntimeError("it broke")

async def sleeps():
    await asyncio.sleep(30)

def big():
    return "x" * 400_000
"""
NUMBERS = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
    "required": ["a"],
    "additionalProperties": False,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "mytools.py").write_text(MODULE)
    llm = {"timeout": 20, "first_token_timeout": 10, "retries": 0}
    return Settings(llm=llm, config={"dir": tmp_path})


@pytest.fixture
def ran_tools(settings: Settings) -> list[tuple[Any, ...]]:
    """What the tools of this test's module did."""
    from callboard_runtime.tools.registry import load_function

    return load_function("add", "mytools:add", settings.config.dir).__globals__["RUNS"]


@pytest.fixture(autouse=True)
def _fresh_modules() -> None:
    import sys

    sys.modules.pop("callboard_user_tools.mytools", None)


def with_tools(*tools: ToolConfig, **fields: Any) -> RuntimeConfig:
    names = [one.name for one in tools]
    return config(stage("answer", visible=True, tools=names, **fields), tools={one.name: one for one in tools})


ADD = tool("add", "mytools:add", parameters=NUMBERS)
PLAIN = tool("plain", "mytools:plain", parameters={"type": "object", "properties": {"text": {"type": "string"}}})
ASKED = tool("wire_money", "mytools:add", parameters=NUMBERS, requires_approval=True)


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


def _died_inside(first: Ran) -> tuple[JournalRow, ...]:
    model, in_tool, *_ = first.journal.rows()
    return model, dataclasses.replace(in_tool, status="unknown", result=None)


async def test_a_tool_whose_process_died_in_it_asks_a_human(settings: Settings, ran_tools: list[Any]) -> None:
    given = brief('call add with {"a": 1}', with_tools(ADD))
    first = await run(given, settings)
    second = await run(dataclasses.replace(given, journal=_died_inside(first)), settings)
    assert second.outcome is not None
    assert second.outcome.status == "paused"
    (pending,) = second.outcome.calls
    assert (pending.status, pending.mode) == (ToolCallStatus.OUTCOME_UNKNOWN, ToolMode.BACKEND_DIRECT_EXECUTE)
    assert len(ran_tools) == 1


async def test_an_idempotent_tool_runs_again(settings: Settings, ran_tools: list[Any]) -> None:
    again = ADD.model_copy(update={"idempotent": True})
    given = brief('call add with {"a": 1}', with_tools(again))
    first = await run(given, settings)
    second = await run(dataclasses.replace(given, journal=_died_inside(first)), settings)
    assert second.outcome == first.outcome
    assert len(ran_tools) == 2


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


# -- pauses -----------------------------------------------------------------------------------------------------------

BROWSER = {"name": "ui.openFile", "description": "Open a file", "parameters": {"type": "object", "properties": {}}}


async def test_a_frontend_call_pauses_the_run_under_its_own_name(settings: Settings) -> None:
    ran = await run(brief("call ui.openFile", config(), tools=(BROWSER,)), settings)
    assert ran.outcome is not None
    (pending,) = ran.outcome.calls
    assert (pending.tool_name, pending.mode) == ("ui.openFile", ToolMode.FRONTEND_EXECUTE)
    assert pending.interrupt_id is None
    assert ran.of("TOOL_CALL_START")[0]["toolCallName"] == "ui.openFile"
    assert ran.types[-2:] == ["TOOL_CALL_END", "STEP_FINISHED"]
    assert ran.journal.messages[0].tool_calls[0]["id"] == pending.tool_call_id


async def test_an_approval_pauses_with_an_interrupt_and_runs_nothing(settings: Settings, ran_tools: list[Any]) -> None:
    ran = await run(brief('call wire_money with {"a": 5}', with_tools(ASKED)), settings)
    assert ran.outcome is not None
    (pending,) = ran.outcome.calls
    assert (pending.status, pending.args) == (ToolCallStatus.PENDING_APPROVAL, {"a": 5})
    assert pending.interrupt_id
    assert pending.expires_at > pending.requested_at  # pyright: ignore[reportOptionalOperand]
    assert ran_tools == []


async def test_a_mixed_turn_pauses_once_after_the_direct_call_is_recorded(settings: Settings) -> None:
    given = brief('call plain and wire_money with {"a": 1}', with_tools(tool("plain", "mytools:add"), ASKED))
    ran = await run(given, settings)
    assert ran.outcome is not None
    assert [call.tool_name for call in ran.outcome.calls] == ["wire_money"]
    assert [record.key.split(":")[0] for record in ran.journal.recorded][-1] == "tool"
    assert len(ran.of("TOOL_CALL_RESULT")) == 1


async def test_two_waiting_calls_make_one_pause(settings: Settings) -> None:
    second = ASKED.model_copy(update={"name": "second"})
    ran = await run(brief('call wire_money and second with {"a": 1}', with_tools(ASKED, second)), settings)
    assert ran.outcome is not None
    assert [call.tool_name for call in ran.outcome.calls] == ["wire_money", "second"]


def settled(call: PendingToolCall, said: str, payload: Any = None, edited_args: Any = None) -> JournalRow:
    """The row that the actor writes for an answer."""
    means = {
        "approved": "APPROVED",
        "retry": "APPROVED",
        "result": "EXECUTED",
        "rejected": "REJECTED",
        "fail": "REJECTED",
    }
    answer = {"status": said, "payload": payload, "editedArgs": edited_args}
    args = edited_args if edited_args is not None else call.args
    result = call.but(status=ToolCallStatus(means[said]), args=args, answer=answer).model_dump(mode="json")
    return JournalRow(f"answer:{call.tool_call_id}", "answer", call.tool_name, "", "recorded", result, 1)


async def resume(first: Ran, given: Any, settings: Settings, said: str, **answer: Any) -> Ran:
    assert first.outcome is not None
    rows = (settled(call, said, **answer) for call in first.outcome.calls)
    return await run(dataclasses.replace(given, leg=2, journal=(*first.journal.rows(), *rows)), settings)


async def test_an_approved_call_runs_once_with_the_edited_arguments(settings: Settings, ran_tools: list[Any]) -> None:
    given = brief('call wire_money with {"a": 5}', with_tools(ASKED))
    first = await run(given, settings)
    second = await resume(first, given, settings, "approved", edited_args={"a": 7, "b": 1})
    assert ran_tools == [("add", 7, 1)]
    assert second.outcome is not None
    assert second.outcome.text == 'The tool answered: {"sum":8}'
    assert "TOOL_CALL_START" not in second.types
    assert [event["toolCallId"] for event in second.of("TOOL_CALL_RESULT")] == [first.outcome.calls[0].tool_call_id]  # pyright: ignore[reportOptionalMemberAccess]


async def test_a_rejected_call_never_runs(settings: Settings, ran_tools: list[Any]) -> None:
    given = brief('call wire_money with {"a": 5}', with_tools(ASKED))
    second = await resume(await run(given, settings), given, settings, "rejected", payload={"reason": "too much"})
    assert ran_tools == []
    assert "not approved (rejected: too much)" in second.shown


async def test_edited_arguments_are_checked_too(settings: Settings, ran_tools: list[Any]) -> None:
    given = brief('call wire_money with {"a": 5}', with_tools(ASKED))
    second = await resume(await run(given, settings), given, settings, "approved", edited_args={"a": "x"})
    assert ran_tools == []
    assert "is not of type" in second.shown, "as the actor that took the answer may not have looked"


async def test_a_frontend_result_reaches_the_model_without_a_second_result_event(settings: Settings) -> None:
    given = brief("call ui.openFile", config(), tools=(BROWSER,))
    second = await resume(await run(given, settings), given, settings, "result", payload="file.txt")
    assert second.shown == "The tool answered: file.txt"
    assert "TOOL_CALL_RESULT" not in second.types


@pytest.mark.parametrize(("status", "runs"), [("retry", 2), ("fail", 1), ("result", 1)])
async def test_a_human_decides_what_becomes_of_an_unknown_outcome(
    settings: Settings, ran_tools: list[Any], status: str, runs: int
) -> None:
    given = brief('call add with {"a": 1}', with_tools(ADD))
    first = await run(given, settings)
    unknown = _died_inside(first)
    call_id = unknown[1].key.removeprefix("tool:")
    answer = settled(PendingToolCall(tool_call_id=call_id, tool_name="add", args={"a": 1}), status)
    second = await run(dataclasses.replace(given, journal=(*unknown, answer)), settings)
    assert second.outcome is not None
    assert second.outcome.status == "finished"
    assert len(ran_tools) == runs


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
    own = scripts(tmp_path / "s", {"when": {}, "replies": [{"text": "t", "tool_calls": [{"name": "plain"}]}]})
    llm = settings.llm.model_copy(update={"scripts": own})
    eager = settings.model_copy(update={"llm": llm})
    ran = await run(brief("go", with_tools(PLAIN, max_iterations=3)), eager)
    assert sum(step.kind == "model" for step in ran.journal.begun) == 3
    assert len(ran.of("TOOL_CALL_START")) == len(ran.of("TOOL_CALL_RESULT")) == 2, "what is not run is not shown"
    assert ran.journal.messages[-1].tool_calls == ()
    assert ran.outcome is not None
    assert ran.outcome.text == "t"


# -- a manager and its coworkers --------------------------------------------------------------------------------------


def delegation(*coworkers: str) -> dict[str, Any]:
    calls = [
        {
            "name": "delegate_work_to_coworker",
            "arguments": {"task": f"part of {name}", "context": "none", "coworker": f"{name} agent"},
        }
        for name in coworkers
    ]
    return {"when": {"stage": "manager"}, "replies": [{"tool_calls": calls}, {"text": "Together: ${tool_result}"}]}


def hierarchy(*tools: ToolConfig) -> RuntimeConfig:
    stages = stage("answer", visible=True, tools=[one.name for one in tools]), stage("helper")
    return config(*stages, tools={one.name: one for one in tools}, manager=True)


def scripted(settings: Settings, directory: Path, *entries: dict[str, Any]) -> Settings:
    return settings.model_copy(
        update={"llm": settings.llm.model_copy(update={"scripts": scripts(directory / "s", *entries)})}
    )


async def test_a_manager_delegates_and_answers(settings: Settings, tmp_path: Path) -> None:
    own = scripted(settings, tmp_path, delegation("answer"), {"when": {}, "replies": [{"text": "my part"}]})
    one_task = config(stage("answer", visible=True), manager=True)
    ran = await run(brief("do it", one_task), own)
    assert ran.outcome is not None
    assert ran.outcome.text == "Together: my part"
    assert ran.shown == "Together: my part"
    assert [(step.kind, step.name) for step in ran.journal.begun] == [
        ("model", "manager"),
        ("tool", "delegate_work_to_coworker"),
        ("model", "answer"),
        ("model", "manager"),
    ]


async def test_two_delegations_at_once_to_the_same_coworker(settings: Settings, tmp_path: Path) -> None:
    own = scripted(settings, tmp_path, delegation("answer", "answer"), {"when": {}, "replies": [{"text": "part"}]})
    given = brief("do it", config(stage("answer", visible=True), manager=True))
    first = await run(given, own)
    assert [event["content"] for event in first.of("TOOL_CALL_RESULT")] == ["part", "part"]
    second = await run(dataclasses.replace(given, journal=first.journal.rows()), own)
    assert second.outcome == first.outcome
    assert (second.sink.events, second.journal.begun) == ([], [])


async def test_a_replay_between_two_parallel_delegations_does_not_diverge(settings: Settings, tmp_path: Path) -> None:
    own = scripted(settings, tmp_path, delegation("answer", "answer"), {"when": {}, "replies": [{"text": "part"}]})
    given = brief("do it", config(stage("answer", visible=True), manager=True))
    first = await run(given, own)
    inner = [row for row in first.journal.rows() if row.kind == "model" and row.name == "answer"]
    kept = (first.journal.rows()[0], inner[1])
    second = await run(dataclasses.replace(given, journal=kept), own)
    assert second.outcome == first.outcome
    assert sum(step.name == "answer" for step in second.journal.begun) == 1


async def test_a_pause_inside_a_delegation_pauses_the_run_and_is_resumed_there(
    settings: Settings, tmp_path: Path, ran_tools: list[Any]
) -> None:
    inside = {
        "when": {"stage": "answer"},
        "replies": [{"tool_calls": [{"name": "wire_money", "arguments": {"a": 2}}]}, {"text": "paid ${tool_result}"}],
    }
    own = scripted(settings, tmp_path, delegation("answer"), inside)
    stages = stage("answer", visible=True, tools=["wire_money"])
    given = brief("do it", config(stages, tools={"wire_money": ASKED}, manager=True))
    first = await run(given, own)
    assert first.outcome is not None
    assert [call.tool_name for call in first.outcome.calls] == ["wire_money"]
    second = await resume(first, given, own, "approved")
    assert second.outcome is not None
    assert second.outcome.text == 'Together: paid {"sum":2}'
    assert ran_tools == [("add", 2, 0)]
    repeated = {step.key for step in first.journal.begun if step.kind == "model"}
    assert not repeated & {step.key for step in second.journal.begun}


async def test_a_stop_inside_a_delegation_stops_the_whole_run(settings: Settings, tmp_path: Path) -> None:
    own = scripted(settings, tmp_path, delegation("answer"), {"when": {}, "replies": [{"error": 500, "text": "x"}]})
    ran = prepare(brief("do it", config(stage("answer", visible=True), manager=True)), own)
    with pytest.raises(Exception, match="status 500") as caught:
        await ran.runtime.run()
    assert getattr(caught.value, "code", None) == "MODEL_UNAVAILABLE"
    ran.check_stream()


def test_a_tool_call_survives_the_journals_json() -> None:
    from callboard_runtime.llm.messages import ModelAnswer, ToolCall

    answer = ModelAnswer("text", "why", (ToolCall("call_1", "ui.x", '{"a":1}', "w1", "ui_x"),), "tool_calls", "m")
    assert ModelAnswer.from_result(orjson.loads(orjson.dumps(answer.to_result()))) == answer
