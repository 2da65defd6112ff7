"""Configurations, briefs and runs for the tests of the crew: real CrewAI, real LiteLLM, the scripted model."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from callboard_runtime.agui.run_events import run_finished, run_started
from callboard_runtime.agui.stream import RunStream
from callboard_runtime.config.parts import (
    AgentConfig,
    LlmConfig,
    ManagerConfig,
    Process,
    StageConfig,
    TaskConfig,
    ToolConfig,
)
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.crew.memory_journal import MemoryJournal, MemorySink
from callboard_runtime.crew.runtime import CrewAIRuntime, CrewOutcome
from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.entry.brief import HistoryMessage, JournalRow, RunBrief
from callboard_runtime.settings import Settings

from .agui_verifier import verify

CREWAI_WARNS = pytest.mark.filterwarnings("ignore::DeprecationWarning:crewai")
"""CrewAI reads deprecated fields of its own models."""

SCRIPTED = LlmConfig(
    model_code="scripted",
    provider="callboard-scripted",
    model="callboard-scripted/default",
    context_window=100_000,
    input_price="0.001",
    output_price="0.002",
)


def agent(name: str, **fields: Any) -> AgentConfig:
    return AgentConfig(name=name, role=f"{name} agent", goal="Help", backstory="You help.", **fields)


def stage(
    name: str,
    *,
    visible: bool = False,
    tools: Sequence[str] = (),
    task: str = "{message}",
    llm: LlmConfig = SCRIPTED,
    **agent_fields: Any,
) -> StageConfig:
    return StageConfig(
        name=name,
        agent=agent(name, **agent_fields),
        llm=llm,
        task=TaskConfig(description=task, expected_output="An answer"),
        visible=visible,
        tools=tuple(tools),
    )


def config(*stages: StageConfig, tools: Mapping[str, ToolConfig] | None = None, manager: bool = False) -> RuntimeConfig:
    stages = stages or (stage("answer", visible=True),)
    return RuntimeConfig(
        agent_id="default",
        workflow_stages=tuple(part.name for part in stages),
        stages={part.name: part for part in stages},
        process=Process.HIERARCHICAL if manager else Process.SEQUENTIAL,
        manager=ManagerConfig(agent=agent("boss"), llm=SCRIPTED) if manager else None,
        tools=dict(tools or {}),
    )


def tool(name: str, function: str, **fields: Any) -> ToolConfig:
    parameters = fields.pop("parameters", {"type": "object", "properties": {}})
    return ToolConfig(name=name, function=function, description=name, parameters=parameters, **fields)


def brief(
    text: str,
    resolved: RuntimeConfig | None = None,
    *,
    history: Sequence[HistoryMessage] = (),
    journal: Sequence[JournalRow] = (),
    **run_input: Any,
) -> RunBrief:
    return RunBrief(
        session_id=uuid.uuid4(),
        run_id=uuid.uuid4(),
        user_id="ada",
        thread_id="thread",
        leg_run_id="run",
        agent_id="default",
        leg=1,
        config=resolved or config(),
        input=RunInput(**run_input),
        history=(*history, HistoryMessage("user", text)),
        journal=tuple(journal),
    )


@dataclass
class Ran:
    """One attempt and all that can be seen of it."""

    runtime: CrewAIRuntime
    journal: MemoryJournal
    sink: MemorySink
    outcome: CrewOutcome | None = None

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.sink.events]

    @property
    def shown(self) -> str:
        return "".join(event["delta"] for event in self.sink.events if event["type"] == "TEXT_MESSAGE_CONTENT")

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.sink.events if event["type"] == kind]

    def check_stream(self) -> None:
        """The events, framed as the actor would, are what a client accepts."""
        frame = run_finished("t", "r", {"type": "success"}, {})
        assert not verify([run_started("t", "r"), *self.sink.events, frame]).open_parts


def prepare(given: RunBrief, settings: Settings | None = None, journal: MemoryJournal | None = None) -> Ran:
    sink = MemorySink()
    journal = journal or MemoryJournal(given.journal)
    runtime = CrewAIRuntime(given, journal, RunStream(sink), settings or quick())
    return Ran(runtime, journal, sink)


async def run(given: RunBrief, settings: Settings | None = None, journal: MemoryJournal | None = None) -> Ran:
    """Run an attempt to its end; whatever happens, its stream must be valid."""
    ran = prepare(given, settings, journal)
    try:
        ran.outcome = await ran.runtime.run()
    finally:
        ran.check_stream()
    return ran


def quick(**llm: Any) -> Settings:
    """Settings with short patience."""
    return Settings(llm={"timeout": 20, "first_token_timeout": 10, "retries": 0} | llm)


def scripts(directory: Path, *entries: Mapping[str, Any]) -> Path:
    """A directory of scripts for the scripted model with these entries."""
    directory.mkdir(exist_ok=True)
    named = [{"name": f"script-{index}"} | dict(entry) for index, entry in enumerate(entries)]
    (directory / "test.yaml").write_text(yaml.safe_dump({"scripts": named}))
    return directory
