"""The scripted model's scripts, its ledger, and what it reports as used."""

from __future__ import annotations

import asyncio
import multiprocessing
from pathlib import Path
from typing import Any

import orjson
import pytest

from callboard_runtime.errors import ConfigError
from callboard_runtime.llm.scripts import choose, load_scripts, parse

from .crew_world import CREWAI_WARNS, brief, quick, run

pytestmark = CREWAI_WARNS


def plan(message: str, stage: str = "answer", rounds: int = 0, tool_result: str = "") -> Any:
    return choose(load_scripts(None), stage, message, rounds, tool_result)


@pytest.mark.parametrize(
    ("message", "script"),
    [
        ("Hello there", "greet"),
        ("count to 5", "count"),
        ("Please say 7 tokens at 20 ms", "say"),
        ("slow", "slow"),
        ("think about ships", "think"),
        ("fail 429", "fail"),
        ("fail 500 once", "fail-once"),
        ("hang", "hang"),
        ("call get_weather with {}", "call"),
        ("call a and b", "call-two"),
        ("what is this?", "echo"),
    ],
)
def test_the_packaged_scripts_answer(message: str, script: str) -> None:
    assert plan(message).script == script


def test_the_hidden_stage_says_an_intent_whatever_the_message() -> None:
    assert plan("fail 500", stage="intent").error is None


def test_a_prompt_tells_one_task_of_a_manager_from_another() -> None:
    entry = (
        "{{name: {0}, when: {{stage: manager, prompt: 'task (?P<which>{0})'}}, replies: [{{text: 'did ${{which}}'}}]}}"
    )
    own = parse(f"scripts: [{entry.format('one')}, {entry.format('two')}]", "own.yaml")
    for which in ("one", "two"):
        assert choose(own, "manager", "hello", 0, "", f"Do the Task {which}.").text == f"did {which}"
    with pytest.raises(ConfigError, match="no script fits"):
        choose(own, "manager", "task one", 0, "")


def test_it_says_that_it_is_the_scripted_model() -> None:
    for message in ("hello", "anything else", "think"):
        assert "scripted model" in plan(message).text


def test_groups_fill_in_numbers_text_and_arguments() -> None:
    assert plan("count to 4").text == "1 2 3 4"
    assert plan("say 3 tokens at 250 ms").pace == 0.25
    assert plan('call x.y with {"a": "${b}"}').calls == (("x.y", '{"a": "${b}"}'),)
    assert plan("call x", rounds=1, tool_result="42").text == "The tool answered: 42"
    assert plan("call x", rounds=9, tool_result="42").calls == ()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("scripts: [{name: a}]", "own.yaml: scripts.0.replies"),
        ("scripts: [{name: a, replies: [{txt: x}]}]", "own.yaml: scripts.0.replies.0.txt"),
        ("scripts: [{name: a, when: {message: '('}, replies: [{}]}]", "own.yaml: scripts.0.when.message"),
        ("scripts: [", "own.yaml: is not YAML"),
    ],
)
def test_a_bad_script_is_named_with_its_key(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, "own.yaml")
    assert str(caught.value).startswith(complaint)


def test_a_directory_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CALLBOARD_LLM__SCRIPTS"):
        load_scripts(tmp_path / "nowhere")


def lines(ledger: Path) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in ledger.read_bytes().splitlines()]


async def test_the_ledger_has_one_line_per_request_also_for_failed_ones(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    ran = await run(brief("fail 500 once"), quick(ledger=str(ledger), retries=2))
    noted = lines(ledger)
    assert len(noted) == len(ran.journal.begun) == 2
    assert {line["stage"] for line in noted} == {"answer"}
    assert noted[0]["digest"] == noted[1]["digest"]
    usage = ran.journal.recorded[-1].usage
    assert usage is not None
    assert (noted[1]["input_tokens"], noted[1]["output_tokens"]) == (usage.input_tokens, usage.output_tokens)


def _ten_runs(ledger: str) -> None:
    async def main() -> None:
        await asyncio.gather(*(run(brief(f"count to {n}"), quick(ledger=ledger)) for n in range(1, 11)))

    asyncio.run(main())


def test_processes_may_share_a_ledger(tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_ten_runs, args=(str(ledger),)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(100)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert len({line["id"] for line in lines(ledger)}) == 20
    assert len({line["pid"] for line in lines(ledger)}) == 2


async def test_two_identical_requests_report_the_same_usage() -> None:
    first, second = [await run(brief("say 12 tokens")) for _ in range(2)]
    assert first.journal.recorded[0].usage is not None
    assert first.journal.recorded[0].usage.output_tokens == 12
    assert (first.journal.recorded[0].usage.input_tokens, first.journal.begun[0].digest) == (
        second.journal.recorded[0].usage.input_tokens,  # pyright: ignore[reportOptionalMemberAccess]
        second.journal.begun[0].digest,
    )
