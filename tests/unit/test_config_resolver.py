"""Who wins, field by field; the shapes that are understood; the pinned form."""

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_runtime.config.parts import LlmParams
from callboard_runtime.config.resolver import RuntimeConfig, resolve_agent_runtime_config
from callboard_runtime.config.static import StaticConfig, as_static, load_static, packaged_layers
from callboard_runtime.errors import ConfigError
from callboard_runtime.persistence.tables import SystemAgent
from callboard_runtime.settings import LlmSettings

MODELS = sorted(load_static().models)
TEXTS = st.text("abc XYZ,.", min_size=1, max_size=20)


# -- the shapes that must work ----------------------------------------------------------------------------------------


def test_rows_over_a_workflow() -> None:
    resolved = resolve_agent_runtime_config(
        system_agents=[{"agent_type": "intent", "model_code": "deepseek-v3.2"}],
        static_cfg={"workflow": {"stages": ["intent"]}},
    )
    assert resolved.intent.llm.model_code == "deepseek-v3.2"
    assert "intent" in resolved.workflow_stages


def test_rows_by_type_over_agents() -> None:
    resolved = RuntimeConfig.from_sources(
        by_type={"intent": {"model_code": "deepseek-v3.2"}}, static_cfg={"intent": {"model_code": "gpt-5-mini"}}
    )
    assert isinstance(resolved, RuntimeConfig)
    assert resolved.intent.llm.model_code == "deepseek-v3.2"
    assert resolved.workflow_stages == ("intent",)


@pytest.mark.parametrize(
    ("static_cfg", "stages"),
    [
        (None, ("intent", "answer")),
        ({}, ("intent", "answer")),
        ({"workflow": {"stages": ["intent", "answer"]}}, ("intent", "answer")),
        ({"workflow": ["intent", "plan"]}, ("intent", "plan")),
        ({"workflow": {"default": {"stages": ["intent", {"name": "reply", "agent": "answer", "task": "answer"}]}}},
         ("intent", "reply")),
        ({"workflow": {"stages": {"intent": None, "answer": {"visible": True}}}}, ("intent", "answer")),
        ({"stages": ["intent", "plan", "act"]}, ("intent", "plan", "act")),
        ({"agents": {"intent": {"role": "R"}}}, ("intent",)),
        ({"agents": {"intent": {}, "plan": {"llm": {"model_code": "scripted", "seed": 1}}}}, ("intent", "plan")),
        ({"intent": {"prompts": {"role": "R"}}, "workflow": {"stages": ["intent"]}, "tasks": None}, ("intent",)),
        (load_static(), ("intent", "answer")),
    ],
)  # fmt: skip
def test_static_shapes(static_cfg: Any, stages: tuple[str, ...]) -> None:
    resolved = resolve_agent_runtime_config([{"agent_type": "intent", "model_code": "gpt-5.4"}], static_cfg)
    assert resolved.workflow_stages == stages
    assert resolved.intent.llm.model_code == "gpt-5.4"
    assert [resolved.stages[name].visible for name in stages] == [name == stages[-1] for name in stages]


@dataclass
class Plain:
    agent_type: str
    model_code: str


@pytest.mark.parametrize(
    "row",
    [
        {"agent_type": "intent", "model_code": "gpt-5.4"},
        {"agent_type": "intent", "model_code": "gpt-5.4", "id": 3, "updated_at": None, "llm_params": None},
        {"agent_type": "intent", "llm": {"model_code": "gpt-5.4"}},
        SystemAgent(agent_type="intent", model_code="gpt-5.4"),
        SimpleNamespace(agent_type="intent", model_code="gpt-5.4", prompts={}, enabled=True),
        Plain("intent", "gpt-5.4"),
    ],
)
def test_row_shapes(row: Any) -> None:
    assert resolve_agent_runtime_config([row], {"stages": ["intent"]}).intent.llm.model_code == "gpt-5.4"


@pytest.mark.parametrize(
    ("rows", "static_cfg", "says"),
    [
        ([{"agent_type": "wizard"}], None, r"system_agents\[wizard\]: agent_type: not in agents.yaml"),
        ([{"model_code": "gpt-5.4"}], None, "system_agents: agent_type: is missing"),
        (["intent"], None, "system_agents: a row must be a mapping"),
        ([{"agent_type": "intent"}, {"agent_type": "intent"}], None, "two rows"),
        ([{"agent_type": "intent", "model_code": "nope"}], None, r"system_agents\[intent\]: model_code: unknown model"),
        ([{"agent_type": "intent", "colour": "red"}], None, r"system_agents\[intent\]: colour: unknown key"),
        ([{"agent_type": "intent", "llm_params": {"temprature": 1}}], None, r"llm_params.temprature: unknown key"),
        ([{"agent_type": "intent", "llm_params": {"temperature": 9}}], None, r"\[intent\]: llm_params.temperature: "),
        ([{"agent_type": "intent", "prompts": {"role": "{nobody}"}}], None, r"\[intent\]: prompts.role: .*\{nobody\}"),
        ([{"agent_type": "intent", "prompts": {"motto": "x"}}], None, r"\[intent\]: motto: unknown key"),
        ([{"agent_type": "intent", "enabled": False}], None, r"\[intent\]: enabled: is false, but workflow 'default'"),
        ([], {"workflow": 7}, r"static_cfg\['workflow'\]: must be a mapping"),
        ([], {"workflow": {"stages": []}}, r"static_cfg\['workflow'\]: default.stages"),
        ([], {"workflow": {"stages": ["a", "a"]}}, "'a' is there twice"),
        ([], {"workflow": {"stages": [7]}}, r"static_cfg\['workflow'\]: default.stages.0"),
        ([], {"workflow": {"stages": ["a b"]}}, r"default.stages.0.name"),
        ([], {"workflow": {"stages": ["intent"], "stagse": []}}, "default.stagse: unknown key"),
        ([], {"workflow": {"stages": ["intent"], "process": "circular"}}, "default.process"),
        ([], {"workflow": {"stages": ["intent"], "process": "hierarchical"}}, "need each other"),
        ([], {"workflow": {"stages": [{"name": "intent", "visible": False}]}}, "no stage is visible"),
        ([], {"workflow": {"chat": {"stages": ["intent"]}}, "colour": 1}, "static_cfg: colour: unknown key"),
        ([], {"agents": {"intent": {"rôle": "x"}}}, r"static_cfg\['agents'\]: intent.rôle: unknown key"),
        ([], {"agents": ["intent"]}, r"static_cfg\['agents'\]: must be a mapping"),
        ([], {"agents": {"intent": "x"}}, r"static_cfg\['agents'\]: intent: must be a mapping"),
        ([], {"agents": {"intent": {"tools": ["hammer"]}}}, "intent.tools: no tool 'hammer' in tools.yaml"),
        ([], {"agents": {"intent": {"fallbacks": ["nope"]}}}, "intent.fallbacks: unknown model 'nope'"),
        ([], {"agents": {}, "workflow": {"stages": ["ghost"]}}, "stages.0: no agent 'ghost' in agents.yaml"),
        ([], {"stages": [{"name": "intent", "task": "ghost"}]}, "stages.0: no task 'ghost' in tasks.yaml"),
        ([], {7: {}}, "key 7 must be text"),
        ([], "agents.yaml", "static_cfg: must be a mapping"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(rows: list[Any], static_cfg: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        resolve_agent_runtime_config(rows, static_cfg)


def test_an_unknown_workflow_is_named() -> None:
    with pytest.raises(ConfigError, match=r"workflow\.yaml: nope: .*; there are: chat, default, demo"):
        resolve_agent_runtime_config([], None, agent_id="nope")


def test_a_disabled_agent_hurts_only_the_workflows_that_use_it() -> None:
    rows = [{"agent_type": "intent", "enabled": False}]
    assert resolve_agent_runtime_config(rows, None, agent_id="chat").workflow_stages == ("answer",)


def test_a_missing_stage_is_an_attribute_error() -> None:
    resolved = resolve_agent_runtime_config([], None)
    with pytest.raises(AttributeError, match="no stage 'wizard'; the stages are intent, answer"):
        _ = resolved.wizard
    assert not hasattr(resolved, "wizard")


NAMES = st.sampled_from(
    [
        "agents",
        "tasks",
        "workflow",
        "tools",
        "models",
        "stages",
        "name",
        "agent",
        "task",
        "process",
        "manager",
        "visible",
        "intent",
        "answer",
        "plan",
        "default",
        "role",
        "model_code",
        "llm",
        "llm_params",
        "prompts",
        "temperature",
        "stop",
        "fallbacks",
        "function",
        "parameters",
        "enabled",
        "agent_type",
        "x",
        "{y}",
    ]
)
SHAPES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 3) | st.floats() | NAMES | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.integers(0, 1), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None)
@given(SHAPES, st.lists(SHAPES, max_size=2))
def test_no_shape_leads_to_anything_but_a_configuration_or_a_clear_error(static_cfg: Any, rows: list[Any]) -> None:
    with contextlib.suppress(ConfigError):
        assert resolve_agent_runtime_config(rows, static_cfg).workflow_stages


# -- precedence -------------------------------------------------------------------------------------------------------

AGENT_VALUES: dict[str, st.SearchStrategy[Any]] = {
    "model_code": st.sampled_from(MODELS),
    "role": TEXTS,
    "goal": TEXTS,
    "backstory": TEXTS,
    "description": TEXTS,
    "expected_output": TEXTS,
    "temperature": st.floats(0, 2),
    "max_tokens": st.integers(1, 9999),
    "top_p": st.floats(0.1, 1),
    "seed": st.integers(0, 99),
}
LAYER = st.fixed_dictionaries({}, optional=AGENT_VALUES)
PARAMS = frozenset(LlmParams.model_fields)
READ: dict[str, Callable[[RuntimeConfig], Any]] = {
    "model_code": lambda r: r.intent.llm.model_code,
    **{k: lambda r, k=k: getattr(r.intent.agent, k) for k in ("role", "goal", "backstory")},
    **{k: lambda r, k=k: getattr(r.intent.task, k) for k in ("description", "expected_output")},
    **{k: lambda r, k=k: getattr(r.intent.llm.params, k) for k in ("temperature", "max_tokens", "top_p", "seed")},
}


def as_row(layer: dict[str, Any]) -> dict[str, Any]:
    params = {key: value for key, value in layer.items() if key in PARAMS}
    prompts = {key: value for key, value in layer.items() if key not in PARAMS and key != "model_code"}
    model = {key: value for key, value in layer.items() if key == "model_code"}
    return {"agent_type": "intent", "llm_params": params, "prompts": prompts, **model}


def as_overlay(layer: dict[str, Any]) -> dict[str, Any]:
    task = {key: layer[key] for key in ("description", "expected_output") if key in layer}
    agent = {key: value for key, value in layer.items() if key not in task}
    return {"agents": {"intent": agent}, "tasks": {"intent": task}, "workflow": {"stages": ["intent"]}}


@settings(deadline=None)
@given(row=LAYER, overlay=LAYER)
def test_row_wins_over_overlay_wins_over_packaged_field_by_field(row: dict[str, Any], overlay: dict[str, Any]) -> None:
    packaged = resolve_agent_runtime_config([], {"stages": ["intent"]})
    resolved = resolve_agent_runtime_config([as_row(row)], as_overlay(overlay))
    for key, read in READ.items():
        assert read(resolved) == row.get(key, overlay.get(key, read(packaged))), key


@settings(deadline=None)
@given(row=LAYER, overlay=LAYER, default=st.none() | st.sampled_from(MODELS))
def test_the_default_model_replaces_only_the_packaged_one(
    row: dict[str, Any], overlay: dict[str, Any], default: str | None
) -> None:
    packaged = load_static().agents["intent"].model_code
    llm = LlmSettings(default_model=default)
    resolved = resolve_agent_runtime_config([as_row(row)], as_overlay(overlay), llm=llm)
    wanted = row.get("model_code") or overlay.get("model_code") or default or packaged
    assert resolved.intent.llm.model_code == wanted


@settings(deadline=None)
@given(row=LAYER, overlay=LAYER)
def test_what_is_pinned_comes_back_the_same(row: dict[str, Any], overlay: dict[str, Any]) -> None:
    resolved = resolve_agent_runtime_config([as_row(row)], as_overlay(overlay))
    stored = json.loads(json.dumps(resolved.to_json()))
    assert RuntimeConfig.load(stored) == resolved
    assert RuntimeConfig.load(stored).intent.llm == resolved.intent.llm


def test_a_pinned_configuration_of_a_later_release_is_refused() -> None:
    stored = resolve_agent_runtime_config([], None).to_json()
    with pytest.raises(ValueError, match="version 99; this release reads up to 1"):
        RuntimeConfig.load({**stored, "version": 99})


def test_resolving_does_not_change_what_it_reads() -> None:
    static = load_static()
    before = {name: agent.model_dump() for name, agent in static.agents.items()}
    resolve_agent_runtime_config([as_row({"role": "R", "temperature": 1.5})], static)
    assert {name: agent.model_dump() for name, agent in load_static().agents.items()} == before
    assert packaged_layers().entries["agents"]["intent"] == packaged_layers().entries["agents"]["intent"]


# -- tools and managers -----------------------------------------------------------------------------------------------

TOOL = {"function": "weather:get", "description": "Weather."}


def tooled(**tools: Any) -> StaticConfig:
    return as_static({"tools": tools, "workflow": {"stages": ["intent", "answer"]}})


def test_tools_go_to_those_who_were_granted_them() -> None:
    static = tooled(a=TOOL | {"agents": ["answer"]}, b=TOOL | {"agents": ["*"]}, c=TOOL)
    resolved = resolve_agent_runtime_config([], static)
    assert resolved.intent.tools == ("b",)
    assert resolved.answer.tools == ("a", "b")
    assert sorted(resolved.tools) == ["a", "b"]  # nobody uses c, so it is not pinned
    assert (resolved.tools["a"].timeout, resolved.tools["a"].idempotent) == (60, False)


def test_an_agent_may_name_its_tools_itself() -> None:
    static = as_static(
        {"tools": {"a": TOOL, "b": TOOL | {"agents": ["*"]}}, "agents": {"intent": {"tools": ["a", "b"]}}}
    )
    assert resolve_agent_runtime_config([], static).intent.tools == ("a", "b")


@pytest.mark.parametrize(
    ("tool", "says"),
    [
        ({"a": TOOL | {"agents": ["ghost"]}}, "a.agents: no agent 'ghost'"),
        ({"a": TOOL | {"function": "weather.get"}}, "a.function"),
        ({"a": TOOL | {"parameters": {"type": "string"}}}, "a.parameters: must be a JSON schema with `type: object`"),
        ({"a": TOOL | {"timeout": 0}}, "a.timeout"),
        ({"a": {"function": "m:f"}}, "a.description: is missing"),
        ({"a": TOOL | {"requires_aproval": True}}, "a.requires_aproval: unknown key"),
        ({"ui.a": TOOL}, "ui.a: names beginning with 'ui.' are the frontend's"),
        ({"a b": TOOL}, "a b: a name begins with a letter"),
    ],
)
def test_a_wrong_tool_is_named(tool: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=rf"static_cfg\['tools'\]: {says}"):
        tooled(**tool)


def test_a_hierarchical_workflow_has_a_manager() -> None:
    flow = {"stages": ["intent", "answer"], "process": "hierarchical", "manager": "boss"}
    agents = {"boss": {"role": "Boss", "model_code": "gpt-5.4"}, "intent": {}, "answer": {}}
    resolved = resolve_agent_runtime_config([], {"workflow": flow, "agents": agents})
    assert resolved.manager is not None
    assert (resolved.manager.agent.role, resolved.manager.llm.model_code) == ("Boss", "gpt-5.4")
    assert "boss" not in resolved.stages
    with pytest.raises(ConfigError, match=r"default\.manager: no agent 'ghost'"):
        resolve_agent_runtime_config([], {"workflow": flow | {"manager": "ghost"}, "agents": agents})
    with pytest.raises(ConfigError, match=r"system_agents\[boss\]: enabled"):
        resolve_agent_runtime_config([{"agent_type": "boss", "enabled": False}], {"workflow": flow, "agents": agents})


def test_a_directory_serves_as_static_configuration(tmp_path: Path) -> None:
    (tmp_path / "workflow.yaml").write_text("solo: {stages: [answer]}")
    assert resolve_agent_runtime_config([], tmp_path, agent_id="solo").workflow_stages == ("answer",)
