"""A manager and its coworkers: delegations nest, replay and pause as calls do."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from callboard_runtime.crew.runtime import prepare_loop
from callboard_runtime.llm.threads import delegation_threads
from callboard_runtime.settings import Settings
from unit.crew_world import CREWAI_WARNS, brief, config, prepare, run, stage, tool

from .tools import ASKED, resume, scripted

pytestmark = CREWAI_WARNS


def delegation(*coworkers: str) -> dict[str, Any]:
    calls = [
        {
            "name": "delegate_work_to_coworker",
            "arguments": {"task": f"part of {name}", "context": "none", "coworker": f"{name} agent"},
        }
        for name in coworkers
    ]
    return {"when": {"stage": "manager"}, "replies": [{"tool_calls": calls}, {"text": "Together: ${tool_result}"}]}


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


async def test_delegations_leave_the_threads_to_what_their_coworkers_need(settings: Settings, tmp_path: Path) -> None:
    loop, answered = asyncio.get_running_loop(), {"when": {}, "replies": [{"text": "${tool_result}"}]}
    loop.set_default_executor(ThreadPoolExecutor(2))
    plain = {"when": {"stage": "answer"}, "replies": [{"tool_calls": [{"name": "plain"}]}, {"text": "${tool_result}"}]}
    own = scripted(settings, tmp_path, delegation("answer", "answer", "answer"), plain, answered)
    stages = stage("answer", visible=True, tools=["plain"])
    tools = {"plain": tool("plain", "mytools:plain", timeout=2)}
    ran = await run(brief("do it", config(stages, tools=tools, manager=True)), own)
    given = [event["content"] for event in ran.of("TOOL_CALL_RESULT")]
    assert given == ["plain x\ufffd"] * 6  # three of the tool, three of the delegations


async def test_the_threads_of_delegations_close_with_their_loops() -> None:
    loop = asyncio.get_running_loop()
    prepare_loop(loop, 1)
    threads = delegation_threads(loop)
    assert await loop.run_in_executor(threads, threading.current_thread) is not threading.current_thread()
    await loop.shutdown_default_executor()
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(int)


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
