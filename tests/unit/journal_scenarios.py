"""Runs whose journals are kept in tests/fixtures/journals, and how they are recorded.

`.venv/bin/python tests/unit/journal_scenarios.py` records them anew. Do that only when a change is meant to end the
resumption of runs that were paused before it: what is kept there stands for the journals of a former release.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import orjson

if __name__ == "__main__":  # started as a script: its folder is on the path, that of the tests is not
    sys.path[0] = str(Path(__file__).parents[1])

from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.crew.runtime import CrewOutcome
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.entry.brief import JournalRow, RunBrief
from callboard_runtime.settings import Settings
from unit.crew_world import Ran, brief, config, quick, run, scripts, stage, tool

FOLDER = Path(__file__).parents[1] / "fixtures" / "journals"
NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a"]}
ADD = tool("add", "journal_tools:add", parameters=NUMBERS)
NOTE = tool("note", "journal_tools:note", parameters={"type": "object"})
PAY = tool("pay", "journal_tools:add", parameters=NUMBERS, requires_approval=True)
TOOLS = {one.name: one for one in (ADD, NOTE, PAY)}
BROWSER = {"name": "ui.pick", "description": "Pick one", "parameters": {"type": "object", "properties": {}}}


@dataclass(frozen=True)
class Scenario:
    """A run on the scripted model: its crew, the message, and what the model says beyond the packaged scripts."""

    config: RuntimeConfig
    message: str
    says: Sequence[Mapping[str, Any]] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    state: Any = None

    def settings(self, folder: Path) -> Settings:
        """The script goes into `folder`."""
        own = {"scripts": scripts(folder, *self.says)} if self.says else {}
        return quick(**own).model_copy(update={"config": Settings().config.model_copy(update={"dir": FOLDER})})

    def brief(self, rows: Sequence[JournalRow] = ()) -> RunBrief:
        made = brief(self.message, self.config, journal=rows, tools=self.tools)
        return replace(made, initial_state=self.state, shared_state=self.state)


def calls(*wanted: tuple[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {"tool_calls": [{"name": name, "arguments": dict(arguments)} for name, arguments in wanted]}


def with_tools(*names: str, **fields: Any) -> RuntimeConfig:
    return config(stage("answer", visible=True, tools=names, **fields), tools={name: TOOLS[name] for name in names})


def delegate(*coworkers: str) -> dict[str, Any]:
    about = {"task": "your part", "context": "none"}
    return calls(*(("delegate_work_to_coworker", about | {"coworker": f"{name} agent"}) for name in coworkers))


SCENARIOS = {
    "sequential": Scenario(with_tools("add"), 'call add with {"a": 1, "b": 2}'),
    "stages": Scenario(
        config(
            stage("intent", tools=["add"]), stage("answer", visible=True, task="{message} {state}"), tools={"add": ADD}
        ),
        "what is it?",
        [
            {"when": {"stage": "intent"}, "replies": [calls(("add", {"a": 4})), {"text": "It is ${tool_result}"}]},
            {"when": {"stage": "answer"}, "replies": [{"reasoning": "Let me see.", "text": "Four."}]},
        ],
        state={"page": "home"},
    ),
    "hierarchical": Scenario(
        config(stage("answer", visible=True, tools=["add"]), stage("helper"), tools={"add": ADD}, manager=True),
        "share it out",
        [
            {"when": {"stage": "manager"}, "replies": [delegate("answer", "helper"), {"text": "All: ${tool_result}"}]},
            {"when": {"stage": "answer"}, "replies": [calls(("add", {"a": 2})), {"text": "mine: ${tool_result}"}]},
            {"when": {"stage": "helper"}, "replies": [{"text": "helped"}]},
        ],
    ),
    "parallel": Scenario(
        with_tools("add", "note"),
        "both",
        [
            {
                "when": {},
                "replies": [calls(("add", {"a": 1}), ("note", {"text": "n"}), ("add", {"a": 5})), {"text": "done"}],
            }
        ],
        state={"notes": ["old"]},
    ),
    "refused": Scenario(
        with_tools("add"),
        "try and err",
        [
            {
                "when": {},
                "replies": [
                    calls(("add", {"a": "one"}), ("add", {"a": 2}), ("pay", {"a": 3})),
                    calls(("add", {"b": 1})),
                    calls(("add", {"a": 4})),
                    {"text": "The end: ${tool_result}"},
                ],
            }
        ],
    ),
    "pause": Scenario(
        with_tools("add", "pay"),
        "pay",
        [
            {
                "when": {},
                "replies": [
                    {"text": "A moment.", **calls(("add", {"a": 1}), ("pay", {"a": 5}), ("ui.pick", {}))},
                    calls(("pay", {"a": 9})),
                    {"text": "The end: ${tool_result}"},
                ],
            }
        ],
        (BROWSER,),
    ),
}


@dataclass(frozen=True)
class Recorded:
    """A journal as it is kept: its rows in the order of their commits, what each pause waited for, and the end."""

    message: str
    config: RuntimeConfig
    rows: tuple[JournalRow, ...]
    pauses: tuple[tuple[str, ...], ...]  # names of the calls
    text: str
    tools: tuple[dict[str, Any], ...] = ()
    state: Any = None
    begun: tuple[str, ...] = field(default=())  # keys of the model calls, in order

    @classmethod
    def read(cls, name: str) -> Recorded:
        given = orjson.loads((FOLDER / f"{name}.json").read_bytes())
        read = {member.name for member in fields(JournalRow)}  # a worker does not read all that was kept
        rows = tuple(JournalRow(**{name: row[name] for name in row if name in read}) for row in given.pop("rows"))
        pauses = tuple(map(tuple, given.pop("pauses")))
        return cls(**given | {"config": RuntimeConfig.model_validate(given["config"])}, rows=rows, pauses=pauses)

    def write(self, name: str) -> None:
        shown = asdict(self) | {"config": self.config.model_dump(mode="json")}
        (FOLDER / f"{name}.json").write_bytes(
            orjson.dumps(shown, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
        )


def answer_row(call: PendingToolCall) -> JournalRow:
    """The row that the actor writes for an approval, or for a result from the browser."""
    browsers = call.mode is ToolMode.FRONTEND_EXECUTE
    said = {"status": "result", "payload": "picked"} if browsers else {"status": "approved", "payload": None}
    status = ToolCallStatus.EXECUTED if browsers else ToolCallStatus.APPROVED
    result = call.but(status=status, answer=said | {"editedArgs": None}).model_dump(mode="json")
    return JournalRow(
        f"answer:{call.tool_call_id}", "answer", call.tool_name, "", "recorded", result, 1, call.tool_call_id
    )


async def play(
    scenario: Scenario, settings: Settings, rows: Sequence[JournalRow] = ()
) -> tuple[Ran, list[CrewOutcome]]:
    """Run to the end, through all pauses, whose calls are answered; the last leg and the outcome of each."""
    outcomes: list[CrewOutcome] = []
    while True:
        ran = await run(scenario.brief(rows), settings)
        assert ran.outcome is not None
        outcomes.append(ran.outcome)
        if ran.outcome.status != "paused":
            return ran, outcomes
        rows = (*ran.journal.rows(), *map(answer_row, ran.outcome.calls))


async def record(scenario: Scenario, folder: Path) -> Recorded:
    ran, outcomes = await play(scenario, scenario.settings(folder))
    rows = ran.journal.rows()
    return Recorded(
        message=scenario.message,
        config=scenario.config,
        rows=rows,
        pauses=tuple(tuple(call.tool_name for call in outcome.calls) for outcome in outcomes[:-1]),
        text=outcomes[-1].text,
        tools=tuple(map(dict, scenario.tools)),
        state=scenario.state,
        begun=tuple(row.key for row in rows if row.kind == "model"),
    )


async def main() -> None:
    for name, scenario in SCENARIOS.items():
        with tempfile.TemporaryDirectory() as folder:
            (await record(scenario, Path(folder) / "scripts")).write(name)


if __name__ == "__main__":
    asyncio.run(main())
