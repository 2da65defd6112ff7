"""In: a run's configuration and what its prompts may mention. Out: a CrewAI crew of agents and tasks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from callboard_runtime.config.parts import (
    AgentConfig,
    LlmConfig,
    ManagerConfig,
    Process,
    StageConfig,
)
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.config.templates import render
from callboard_runtime.crew.executor import JournaledExecutor
from callboard_runtime.crew.trims import TrimmedCrew, apply_trims
from callboard_runtime.llm.client import CallboardLLM
from callboard_runtime.llm.libraries import Agent, BaseAgent, BaseTool, Crew, Task
from callboard_runtime.llm.libraries import Process as CrewProcess
from callboard_runtime.tools.journaled import wrap_all
from callboard_runtime.tools.spec import Tool

MANAGER = "manager"
_QUIET: dict[str, Any] = {"verbose": False, "memory": False, "cache": False, "tracing": False}
_WITH_CONTEXT = "\n\nWhat the application says about the situation, as JSON:\n{context}"

MakeLlm = Callable[[str, LlmConfig], CallboardLLM]
"""Makes the model of a stage, or of the manager."""


@dataclass(frozen=True, slots=True)
class CrewParts:
    """What a crew is made of beside its configuration."""

    make_llm: MakeLlm
    values: Mapping[str, str]  # of the prompt templates' variables
    backend_tools: Mapping[str, Tool]
    frontend_tools: Sequence[Tool] = ()


def build(config: RuntimeConfig, parts: CrewParts) -> Crew:
    """The crew of a workflow; raises KeyError for a template variable that `parts` lacks."""
    apply_trims()
    stages = [config.stages[name] for name in config.workflow_stages]
    hierarchical = config.process is Process.HIERARCHICAL
    agents: list[BaseAgent] = [_agent(stage.agent, parts.make_llm(stage.name, stage.llm), parts) for stage in stages]
    if hierarchical:
        for agent, stage in zip(agents, stages, strict=True):
            agent.tools = _backend(stage, parts)
    tasks = [_task(stage, None if hierarchical else agent, parts) for agent, stage in zip(agents, stages, strict=True)]
    return TrimmedCrew(
        name=config.agent_id,
        agents=agents,
        tasks=tasks,
        process=CrewProcess.hierarchical if hierarchical else CrewProcess.sequential,
        manager_agent=_manager(config.manager, parts) if hierarchical and config.manager else None,
        planning=False,
        **_QUIET,
    )


def _manager(manager: ManagerConfig, parts: CrewParts) -> Agent:
    agent = _agent(manager.agent, parts.make_llm(MANAGER, manager.llm), parts)
    agent.allow_delegation = True
    return agent


def _agent(config: AgentConfig, llm: CallboardLLM, parts: CrewParts) -> Agent:
    return Agent(
        role=render(config.role, parts.values),
        goal=render(config.goal, parts.values),
        backstory=render(config.backstory, parts.values),
        llm=llm,
        max_iter=config.max_iterations,
        executor_class=JournaledExecutor,
        max_retry_limit=0,  # a retry of CrewAI's would repeat recorded model calls
        allow_delegation=False,
        verbose=False,
        cache=False,
    )


def _task(stage: StageConfig, agent: BaseAgent | None, parts: CrewParts) -> Task:
    tools = wrap_all(parts.frontend_tools) if stage.visible else []
    description = stage.task.description
    if stage.visible and "{context}" not in description and parts.values.get("context", "[]") != "[]":
        description += _WITH_CONTEXT
    return Task(
        name=stage.name,
        description=render(description, parts.values),
        expected_output=render(stage.task.expected_output, parts.values),
        agent=agent,
        tools=[*(_backend(stage, parts) if agent is not None else []), *tools],
    )


def _backend(stage: StageConfig, parts: CrewParts) -> list[BaseTool]:
    return wrap_all([parts.backend_tools[name] for name in stage.tools])
