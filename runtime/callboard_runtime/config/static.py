"""The static configuration: the packaged YAML files, overlaid by those in a user's directory."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, cast

from callboard_runtime import static
from callboard_runtime.config.layers import (
    SECTIONS,
    Entries,
    Fields,
    Layers,
    Source,
    agent_fields,
    mapping,
    named_entries,
    read_yaml,
    split_prompts,
    workflow_entries,
)
from callboard_runtime.config.specs import AgentSpec, ModelSpec, TaskSpec, ToolSpec, WorkflowSpec, complain
from callboard_runtime.config.templates import unknown_variables
from callboard_runtime.domain.tool_policy import FRONTEND_PREFIX
from callboard_runtime.errors import ConfigError

FILES = {f"{section}.yaml": section for section in SECTIONS}
PACKAGED_DIR = Path(static.__file__).parent / "crewai"
PACKAGED = "(packaged)"
OVERLAY = "in CALLBOARD_CONFIG__DIR"
EVERYONE = "*"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")

Stamp = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class StaticConfig:
    """Everything the YAML files say, checked; `stamp` changes when a file does."""

    agents: Mapping[str, AgentSpec]
    tasks: Mapping[str, TaskSpec]
    workflows: Mapping[str, WorkflowSpec]
    tools: Mapping[str, ToolSpec]
    models: Mapping[str, ModelSpec]
    layers: Layers
    stamp: Stamp = ()

    def where(self, *path: str) -> str:
        """The file that decided the key at `path`, such as ("agents", "intent", "model_code")."""
        return self.layers.origin(*path)

    def is_packaged(self, *path: str) -> bool:
        """Whether the key at `path` is as it was shipped."""
        return self.where(*path).endswith(PACKAGED)


def load_static(directory: Path | None = None) -> StaticConfig:
    """The packaged files overlaid by those in `directory`; read again only after one changed.

    Raises ConfigError naming file and key.
    """
    stamp = _stamp(directory)
    cached = _cache.get(directory)
    if cached is None or cached.stamp != stamp:
        layers = packaged_layers()
        for source in _overlay(directory):
            layers.add(source)
        cached = _cache[directory] = build(layers, stamp)
    return cached


_cache: dict[Path | None, StaticConfig] = {}


def packaged_layers() -> Layers:
    """The packaged files alone."""
    layers = Layers()
    for source in _packaged():
        layers.add(source)
    return layers


@cache
def _packaged() -> tuple[Source, ...]:
    return tuple(source for name in FILES for source in read(PACKAGED_DIR / name, f"{name} {PACKAGED}"))


def _overlay(directory: Path | None) -> list[Source]:
    if directory is None:
        return []
    return [
        source for name in FILES if (path := directory / name).exists() for source in read(path, f"{name} {OVERLAY}")
    ]


def _stamp(directory: Path | None) -> Stamp:
    if directory is None:
        return ()
    try:
        found = [path for path in directory.iterdir() if path.suffix in (".yaml", ".yml")]
        stats = [(path.name, path.stat()) for path in sorted(found)]
    except OSError as error:
        raise ConfigError(f"CALLBOARD_CONFIG__DIR: {directory} cannot be read ({error.strerror})") from None
    if odd := [name for name, _ in stats if name not in FILES]:
        raise ConfigError(f"CALLBOARD_CONFIG__DIR: {odd[0]} is not read; the files are {', '.join(FILES)}")
    return tuple((name, stat.st_mtime_ns, stat.st_size) for name, stat in stats)


def read(path: Path, label: str) -> list[Source]:
    """The sources in one YAML file."""
    return sources(FILES[path.name], read_yaml(path, label), label)


def sources(section: str, value: Any, label: str) -> list[Source]:
    """What one section says; an agent's task prompts belong to the task of its name."""
    if section == "workflow":
        return [Source(label, section, workflow_entries(value, label))]
    if section != "agents":
        return [Source(label, section, named_entries(value, label))]
    agents: Entries = {}
    tasks: Entries = {}
    for name, fields in named_entries(value, label, agent_fields).items():
        agents[name], task = split_prompts(fields)
        tasks |= {name: task} if task else {}
    return [Source(label, "agents", agents), Source(label, "tasks", tasks)]


def as_static(static_cfg: object) -> StaticConfig:
    """A StaticConfig from one, from a directory, or from a mapping laid over the packaged files.

    A mapping has the sections `agents`, `tasks`, `workflow`, `tools`, `models`, each as in its file; any other key with
    a mapping is taken for an agent. Without a workflow, the agents named are its stages; without `agents`, a stage
    that nobody describes gets plain prompts.
    """
    if isinstance(static_cfg, StaticConfig):
        return static_cfg
    if static_cfg is None or isinstance(static_cfg, Path):
        return load_static(static_cfg)
    return _from_mapping(mapping(static_cfg, "static_cfg", ""))


def _from_mapping(given: Fields) -> StaticConfig:
    sections, agents = _sections(given)
    layers = packaged_layers()
    described = [agents] if agents else []
    if "workflow" not in sections and agents:
        sections["workflow"] = list(agents)
    if "agents" not in given:
        described.append(_stage_agents(sections.get("workflow")))
    for names in described:
        for source in _plain(names, layers):
            layers.add(source)
    for section, value in sections.items():
        for source in sources(section, value, f"static_cfg[{section!r}]"):
            layers.add(source)
    return build(layers)


def _sections(given: Fields) -> tuple[Fields, Fields]:
    """The sections of a plain mapping, and the agents it describes."""
    sections: Fields = {}
    agents: Fields = {}
    for key, value in given.items():
        if key in ("stages", "process", "manager"):
            sections["workflow"] = {**sections.get("workflow", {}), key: value}
        elif key in SECTIONS:
            sections[key] = value
        elif isinstance(value, Mapping):
            agents[key] = value
        else:
            raise complain("static_cfg", key, f"unknown key; the sections are {', '.join(SECTIONS)}")
    agents = mapping(sections.get("agents"), "static_cfg['agents']", "") | agents
    return sections | ({"agents": agents} if agents else {}), agents


def _stage_agents(workflow: Any) -> Fields:
    if workflow is None:
        return {}
    flows = workflow_entries(workflow, "static_cfg['workflow']").values()
    stages = [stage for flow in flows for stage in cast("list[Any]", flow.get("stages") or [])]
    return {name: {} for stage in stages if isinstance(name := _agent_of(stage), str)}


def _agent_of(stage: Any) -> object:
    if not isinstance(stage, Mapping):
        return stage
    given = cast("Mapping[str, Any]", stage)
    return given.get("agent", given.get("name"))


def _plain(names: Fields, layers: Layers) -> list[Source]:
    """Plain prompts for the agents that the packaged files do not describe."""
    missing = [name for name in names if name not in layers.entries["agents"]]
    model = layers.entries["agents"]["answer"]["model_code"]
    agents: Entries = {
        name: {"role": name, "goal": f"Do the {name} part of the work", "backstory": "You are brief and exact."}
        | {"model_code": model}
        for name in missing
    }
    tasks: Entries = {name: {"description": "{message}", "expected_output": "A complete answer."} for name in missing}
    label = f"plain prompts {PACKAGED}"
    return [Source(label, "agents", agents), Source(label, "tasks", tasks)]


def build(layers: Layers, stamp: Stamp = ()) -> StaticConfig:
    """Check everything that can be checked without the database; raises ConfigError naming file and key."""
    config = StaticConfig(
        agents=layers.parse("agents", AgentSpec),
        tasks=layers.parse("tasks", TaskSpec),
        workflows=layers.parse("workflow", WorkflowSpec),
        tools=layers.parse("tools", ToolSpec),
        models=layers.parse("models", ModelSpec),
        layers=layers,
        stamp=stamp,
    )
    _check_names(layers)
    _check_agents(config)
    _check_templates(config)
    _check_workflows(config)
    _check_tools(config)
    return config


def _check_names(layers: Layers) -> None:
    for section in ("agents", "tasks", "workflow", "tools"):
        for name in layers.entries[section]:
            if not _NAME.fullmatch(name):
                message = "a name begins with a letter and has up to 64 letters, digits, `_`, `-` and `.`"
                raise complain(layers.origin(section, name), name, message)


def _check_agents(config: StaticConfig) -> None:
    for name, agent in config.agents.items():
        if missing := [tool for tool in agent.tools if tool not in config.tools]:
            where = config.where("agents", name, "tools")
            raise complain(where, f"{name}.tools", f"no tool {missing[0]!r} in tools.yaml; {_among(config.tools)}")


def _check_templates(config: StaticConfig) -> None:
    for section, entries, keys in (
        ("agents", config.agents, ("role", "goal", "backstory")),
        ("tasks", config.tasks, ("description", "expected_output")),
    ):
        for name, entry in entries.items():
            for key in keys:
                check_template(getattr(entry, key), config.where(section, name, key), f"{name}.{key}")


def check_template(template: str, where: str, path: str) -> None:
    """Raises ConfigError when a template uses a variable that no run provides."""
    if unknown := unknown_variables(template):
        fix = f"write {{{{{unknown[0]}}}}} for the text itself"
        raise complain(where, path, f"there is no variable {{{unknown[0]}}}; {fix}")


def _check_workflows(config: StaticConfig) -> None:
    for name, flow in config.workflows.items():
        where = config.where("workflow", name, "stages")
        for index, stage in enumerate(flow.stages):
            path = f"{name}.stages.{index}"
            if stage.agent not in config.agents:
                raise complain(where, path, f"no agent {stage.agent!r} in agents.yaml; {_among(config.agents)}")
            if stage.task not in config.tasks:
                raise complain(where, path, f"no task {stage.task!r} in tasks.yaml; {_among(config.tasks)}")
        if flow.manager is not None and flow.manager not in config.agents:
            where = config.where("workflow", name, "manager")
            raise complain(where, f"{name}.manager", f"no agent {flow.manager!r} in agents.yaml")


def _check_tools(config: StaticConfig) -> None:
    for name, tool in config.tools.items():
        where = config.where("tools", name)
        if name.startswith(FRONTEND_PREFIX):
            raise complain(where, name, f"names beginning with {FRONTEND_PREFIX!r} are the frontend's; choose another")
        if odd := [agent for agent in tool.agents if agent != EVERYONE and agent not in config.agents]:
            where = config.where("tools", name, "agents")
            raise complain(where, f"{name}.agents", f"no agent {odd[0]!r} in agents.yaml; {_among(config.agents)}")


def _among(names: Mapping[str, object]) -> str:
    return f"there are: {', '.join(sorted(names))}" if names else "there are none"
