"""Calls that wait for a client or a person: they pause the turn once, and their answers are its only other input."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.settings import Settings
from unit.crew_world import CREWAI_WARNS, Ran, brief, config, run, tool

from .tools import ADD, ASKED, resume, settled, with_tools

pytestmark = CREWAI_WARNS


BROWSER = {"name": "ui.openFile", "description": "Open a file", "parameters": {"type": "object", "properties": {}}}


def _died_inside(first: Ran) -> tuple[JournalRow, ...]:
    model, in_tool, *_ = first.journal.rows()
    return model, dataclasses.replace(in_tool, status="unknown", result=None)


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
    assert (pending.requested_at, pending.expires_at) == (None, None), "the actor's clock says when"
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


async def test_a_result_that_a_human_gives_is_held_to_the_limit_of_a_tools_own(settings: Settings) -> None:
    given = brief('call add with {"a": 1}', with_tools(ADD))
    unknown = _died_inside(await run(given, settings))
    call = PendingToolCall(tool_call_id=unknown[1].key.removeprefix("tool:"), tool_name="add", args={"a": 1})
    answer = settled(call, "result", payload="\n" * 200_000)
    ran = await run(dataclasses.replace(given, journal=(*unknown, answer)), settings)
    assert "the result has 400000 bytes as JSON" in ran.journal.messages[0].content
