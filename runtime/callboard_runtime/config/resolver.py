"""Rows of system_agents over the static configuration, field by field: the configuration that a run is pinned to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self, cast

from pydantic import Field, ValidationError

from callboard_runtime.config.layers import agent_fields
from callboard_runtime.config.parts import (
    SCRIPTED_MODEL,
    SCRIPTED_PROVIDER,
    AgentConfig,
    FlowConfig,
    LlmConfig,
    LlmParams,
    ManagerConfig,
    ModelConfig,
    Part,
    Process,
    StageConfig,
    TaskConfig,
    ToolConfig,
)
from callboard_runtime.config.providers import provider_of
from callboard_runtime.config.specs import (
    PROMPTS,
    AgentRow,
    ModelSpec,
    StageSpec,
    WorkflowSpec,
    complain,
    first_problem,
)
from callboard_runtime.config.static import EVERYONE, StaticConfig, as_static, check_template
from callboard_runtime.errors import ConfigError
from callboard_runtime.settings import LlmSettings

VERSION = 1
TABLE = "system_agents"
DEFAULT_WORKFLOW = "default"
UNKNOWN_CONTEXT_WINDOW = 32_768  # tokens; small enough for every model of today
_PER = Decimal(1_000_000)
_COLUMNS = ("model_code", "llm_params", "prompts", "enabled")
_IGNORED = frozenset({"id", "created_at", "updated_at"})


class RuntimeConfig(Part):
    """All that a run knows of its agents, as pinned on it. A stage is also an attribute: `resolved.intent.llm`."""

    version: int = VERSION
    agent_id: str
    process: Process = Process.SEQUENTIAL
    workflow_stages: tuple[str, ...]
    stages: dict[str, StageConfig]
    manager: ManagerConfig | None = None
    flow: FlowConfig | None = None  # instead of stages
    tools: dict[str, ToolConfig] = Field(default_factory=dict[str, ToolConfig])

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> StageConfig: ...
    else:

        def __getattr__(self, name):
            stages = self.__dict__.get("stages", {})
            if name in stages:
                return stages[name]
            raise AttributeError(f"no stage {name!r}; the stages are {', '.join(stages)}")

    @classmethod
    def from_sources(
        cls,
        *,
        by_type: Mapping[str, object],
        static_cfg: object = None,
        agent_id: str | None = None,
        llm: LlmSettings | None = None,
    ) -> Self:
        """The same as `resolve_agent_runtime_config`, with the rows keyed by agent_type."""
        rows = [_fields(row, f"{TABLE}[{name}]") | {"agent_type": name} for name, row in by_type.items()]
        return cls.model_validate(dict(resolve_agent_runtime_config(rows, static_cfg, agent_id=agent_id, llm=llm)))

    @classmethod
    def load(cls, stored: Mapping[str, Any]) -> Self:
        """Read a pinned configuration; raises ValueError for one of a later release."""
        version = int(stored.get("version", VERSION))
        if version > VERSION:
            raise ValueError(f"pinned configuration has version {version}; this release reads up to {VERSION}")
        return cls.model_validate(stored)

    def to_json(self) -> dict[str, Any]:
        """The form that is pinned in `runs.config`; `load` reads it back."""
        # A former release does not know flows: it goes on reading the configuration of crews.
        return self.model_dump(mode="json", exclude=None if self.flow else {"flow"})


def resolve_agent_runtime_config(
    system_agents: Iterable[object],
    static_cfg: object = None,
    *,
    agent_id: str | None = None,
    llm: LlmSettings | None = None,
) -> RuntimeConfig:
    """Merge database rows over the static configuration and pick the workflow `agent_id`.

    `system_agents` are rows, objects or mappings with `agent_type` and any of `model_code`, `llm_params`, `prompts`,
    `enabled`; what they say wins field by field. `static_cfg` is a StaticConfig, a directory, or a mapping laid over
    the packaged files (see `as_static`). `llm` adds the default model and says which providers can be reached.
    Without `agent_id` it is `default`. Raises ConfigError naming file (or system_agents) and key.
    """
    static = as_static(static_cfg)
    rows = parse_rows(system_agents, static)
    return Resolver(static, rows, llm).resolve(agent_id or DEFAULT_WORKFLOW)


def parse_rows(system_agents: Iterable[object], static: StaticConfig) -> dict[str, AgentRow]:
    """The rows by agent_type, checked against the static agents; raises ConfigError."""
    rows: dict[str, AgentRow] = {}
    for given in system_agents:
        row = given if isinstance(given, AgentRow) else _parse_row(given)
        if row.agent_type not in static.agents:
            known = ", ".join(sorted(static.agents))
            raise complain(f"{TABLE}[{row.agent_type}]", "agent_type", f"not in agents.yaml; there are: {known}")
        if row.agent_type in rows:
            raise complain(f"{TABLE}[{row.agent_type}]", "agent_type", "there are two rows")
        rows[row.agent_type] = row
    return rows


def _parse_row(given: object) -> AgentRow:
    fields = _fields(given, TABLE)
    name = fields.get("agent_type")
    if not isinstance(name, str):
        raise complain(TABLE, "agent_type", "is missing in a row")
    shaped = agent_fields({key: value for key, value in fields.items() if key not in _IGNORED})
    prompts = {key: shaped.pop(key) for key in PROMPTS if key in shaped}
    try:
        return AgentRow.model_validate(shaped | {"prompts": prompts})
    except ValidationError as error:
        path, text = first_problem(error)
        raise complain(f"{TABLE}[{name}]", ".".join(path), text) from None


def _fields(row: object, label: str) -> dict[str, Any]:
    """A row's fields: of a mapping, of a SQLAlchemy row, or of an object with attributes."""
    found: object = getattr(row, "_mapping", row)
    if isinstance(found, Mapping):
        return {str(key): value for key, value in cast("Mapping[object, Any]", found).items()}
    given = {key: getattr(row, key) for key in ("agent_type", *_COLUMNS) if hasattr(row, key)}
    if not given:
        raise ConfigError(f"{label}: a row must be a mapping or an object with agent_type, not {type(row).__name__}")
    return given


class Resolver:
    """One resolution over checked rows; each method builds one part."""

    def __init__(self, static: StaticConfig, rows: Mapping[str, AgentRow], llm: LlmSettings | None) -> None:
        self._static = static
        self._rows = rows
        self._llm = llm

    def resolve(self, agent_id: str) -> RuntimeConfig:
        """The configuration of one workflow; raises ConfigError."""
        flow = self._static.workflows.get(agent_id)
        if flow is None:
            known = ", ".join(sorted(self._static.workflows))
            raise complain("workflow.yaml", agent_id, f"there is no such workflow; there are: {known}")
        visible = flow.visible_stages()
        stages = {stage.name: self._stage(stage, stage.name in visible, agent_id) for stage in flow.stages}
        used = {name for stage in stages.values() for name in stage.tools}
        return RuntimeConfig(
            agent_id=agent_id,
            process=flow.process,
            workflow_stages=tuple(stages),
            stages=stages,
            manager=self._manager(flow, agent_id),
            flow=self._flow(flow, agent_id),
            tools={name: self._tool(name) for name in sorted(used)},
        )

    def _stage(self, stage: StageSpec, visible: bool, agent_id: str) -> StageConfig:
        self._require_enabled(stage.agent, agent_id)
        return StageConfig(
            name=stage.name,
            agent=self._agent(stage.agent),
            llm=self._model_of(stage.agent),
            task=self._task(stage),
            visible=visible,
            tools=self.tools_of(stage.agent),
        )

    def _manager(self, flow: WorkflowSpec, agent_id: str) -> ManagerConfig | None:
        if flow.manager is None:
            return None
        self._require_enabled(flow.manager, agent_id)
        return ManagerConfig(agent=self._agent(flow.manager), llm=self._model_of(flow.manager))

    def _flow(self, flow: WorkflowSpec, agent_id: str) -> FlowConfig | None:
        if flow.flow is None:
            return None
        where = self._static.where("workflow", agent_id, "model_code")
        model = self._model(flow.model_code, where, f"{agent_id}.model_code") if flow.model_code else None
        return FlowConfig(flow=flow.flow, llm=LlmConfig(**dict(model)) if model else None)

    def _require_enabled(self, agent: str, agent_id: str) -> None:
        row = self._rows.get(agent)
        if row is not None and not row.enabled:
            message = f"is false, but workflow {agent_id!r} needs this agent; enable it or take it out of the workflow"
            raise complain(f"{TABLE}[{agent}]", "enabled", message)

    def _agent(self, name: str) -> AgentConfig:
        spec = self._static.agents[name]
        texts = {key: self._prompt(name, key) or getattr(spec, key) for key in PROMPTS[:3]}
        return AgentConfig(name=name, max_iterations=spec.max_iterations, **texts)

    def _task(self, stage: StageSpec) -> TaskConfig:
        spec = self._static.tasks[stage.task]
        texts = {key: self._prompt(stage.agent, key) or getattr(spec, key) for key in PROMPTS[3:]}
        return TaskConfig(**texts)

    def _prompt(self, agent: str, key: str) -> str | None:
        """What the agent's row says for a prompt, checked."""
        row = self._rows.get(agent)
        text: str | None = getattr(row.prompts, key) if row else None
        if text is not None:
            check_template(text, f"{TABLE}[{agent}]", f"prompts.{key}")
        return text

    def tools_of(self, agent: str) -> tuple[str, ...]:
        """The tools an agent names, then those granted to it in tools.yaml."""
        named = self._static.agents[agent].tools
        granted = [
            name
            for name, tool in self._static.tools.items()
            if name not in named and (agent in tool.agents or EVERYONE in tool.agents)
        ]
        return (*dict.fromkeys(named), *granted)

    def _tool(self, name: str) -> ToolConfig:
        return ToolConfig(name=name, **self._static.tools[name].model_dump(exclude={"agents"}))

    def _model_of(self, agent: str) -> LlmConfig:
        spec = self._static.agents[agent]
        code, where, path = self.model_code(agent)
        fallbacks_at = self._static.where("agents", agent, "fallbacks")
        return LlmConfig(
            **dict(self._model(code, where, path)),
            params=self._params(agent),
            fallbacks=tuple(self._model(other, fallbacks_at, f"{agent}.fallbacks") for other in spec.fallbacks),
        )

    def _params(self, agent: str) -> LlmParams:
        static = self._static.agents[agent].llm_params
        row = self._rows.get(agent)
        return static.model_copy(update=row.llm_params.model_dump(exclude_none=True)) if row else static

    def model_code(self, agent: str) -> tuple[str, str, str]:
        """The agent's model_code, the file, table or variable that says so, and the key in it."""
        row = self._rows.get(agent)
        if row is not None and row.model_code is not None:
            return row.model_code, f"{TABLE}[{agent}]", "model_code"
        code = self._static.agents[agent].model_code
        if self._llm is not None and self._static.is_packaged("agents", agent, "model_code"):
            if self._llm.default_model is not None:
                return self._llm.default_model, "CALLBOARD_LLM__DEFAULT_MODEL", ""
            if self._llm.allow_scripted and not self._reachable(self._catalogued(code).provider):
                code = SCRIPTED_MODEL
        return code, self._static.where("agents", agent, "model_code"), f"{agent}.model_code"

    def _model(self, code: str, where: str, path: str) -> ModelConfig:
        if code in self._static.models:
            return self._catalogued(code)
        provider = provider_of(code)
        if provider is None or provider == SCRIPTED_PROVIDER:
            known = ", ".join(sorted(self._static.models))
            raise complain(where, path, f"unknown model {code!r}; models.yaml has: {known}")
        if self._llm is not None and not self._reachable(provider):
            key, base = (f"CALLBOARD_LLM__{name}__{provider.upper()}" for name in ("PROVIDER_KEYS", "API_BASE"))
            raise complain(where, path, f"model {code!r} is not in models.yaml: add it there, or set {key} or {base}")
        return ModelConfig(model_code=code, provider=provider, model=code, context_window=UNKNOWN_CONTEXT_WINDOW)

    def _catalogued(self, code: str) -> ModelConfig:
        spec = self._static.models[code]
        return ModelConfig(
            model_code=code,
            provider=spec.model.partition("/")[0],
            model=spec.model,
            context_window=spec.context_window,
            **_prices(spec),
        )

    def _reachable(self, provider: str) -> bool:
        llm = self._llm
        return llm is not None and (provider in llm.api_base or llm.provider_keys.of(provider) is not None)


def _prices(spec: ModelSpec) -> dict[str, Decimal | None]:
    prices = spec.price_per_million
    if prices is None:
        return {}
    return {
        "input_price": prices.input / _PER,
        "output_price": prices.output / _PER,
        "cached_price": None if prices.cached is None else prices.cached / _PER,
    }
