"""The configuration as it is written: one model per kind of entry, and errors that name file and key."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Annotated, Any, Self

from pydantic import Field, StringConstraints, ValidationError, ValidationInfo, field_validator, model_validator

from callboard_runtime.config.parts import LlmParams, Part, Process
from callboard_runtime.config.providers import provider_of
from callboard_runtime.domain.tool_schema import schema_problem
from callboard_runtime.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$")]
Reference = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]  # module:name
Prompt = Annotated[str, StringConstraints(min_length=1, max_length=100_000)]

PROMPTS = ("role", "goal", "backstory", "description", "expected_output")


class AgentSpec(Part):
    """An entry of agents.yaml."""

    role: Prompt
    goal: Prompt
    backstory: Prompt
    model_code: str = Field(min_length=1)
    llm_params: LlmParams = LlmParams()
    fallbacks: tuple[str, ...] = ()  # model codes
    tools: tuple[str, ...] = ()
    max_iterations: int = Field(default=20, ge=1)


class TaskSpec(Part):
    """An entry of tasks.yaml."""

    description: Prompt
    expected_output: Prompt


class StageSpec(Part):
    """A stage of a workflow; agent and task have the stage's name unless they name another."""

    name: Name
    agent: str
    task: str
    visible: bool | None = None  # None: only the last stage is

    @model_validator(mode="before")
    @classmethod
    def _named_once(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, Mapping):
            return value
        given: dict[Any, Any] = dict(value)  # pyright: ignore[reportUnknownArgumentType]
        name = given.get("name", given.get("agent"))
        return {"name": name, "agent": name, "task": name} | given


class WorkflowSpec(Part):
    """An entry of workflow.yaml: a crew of stages, or a flow, which is Python."""

    description: str = ""
    flow: Reference | None = None
    model_code: str | None = Field(default=None, min_length=1)  # instead of the models that the flow's calls name
    process: Process = Process.SEQUENTIAL
    manager: str | None = None
    stages: tuple[StageSpec, ...]

    @model_validator(mode="before")
    @classmethod
    def _flows_have_no_stages(cls, value: object) -> object:
        return {"stages": (), **value} if isinstance(value, Mapping) and "flow" in value else value  # pyright: ignore[reportUnknownVariableType]

    @field_validator("stages")
    @classmethod
    def _some(cls, stages: tuple[StageSpec, ...], info: ValidationInfo) -> tuple[StageSpec, ...]:
        if not stages and info.data.get("flow") is None:
            raise ValueError("there must be one at least; or name a `flow: module:Class` instead")
        return stages

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if self.flow is not None and (self.stages or self.manager):
            raise ValueError("`flow` and `stages` exclude each other; `stages: []` takes away those of a packaged one")
        if self.flow is None and self.model_code is not None:
            raise ValueError("`model_code` belongs to a flow; the stages of a crew have the models of their agents")
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.flow is not None:
            return self
        names = [stage.name for stage in self.stages]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"stage {repeated[0]!r} is there twice; give one of them another name")
        if (self.process is Process.HIERARCHICAL) != (self.manager is not None):
            raise ValueError("`process: hierarchical` and `manager: <agent>` need each other")
        if not self.visible_stages():
            raise ValueError("no stage is visible, so there would be no answer; set `visible: true` on one")
        return self

    def visible_stages(self) -> tuple[str, ...]:
        """The stages whose text becomes an assistant message."""
        last = len(self.stages) - 1
        return tuple(s.name for i, s in enumerate(self.stages) if (i == last if s.visible is None else s.visible))


class ToolSpec(Part):
    """An entry of tools.yaml."""

    function: Reference
    description: Prompt
    parameters: dict[str, Any] = Field(default_factory=lambda: {"type": "object", "properties": {}})
    timeout: float = Field(default=60, gt=0, le=3600)
    idempotent: bool = False
    requires_approval: bool = False
    agents: tuple[str, ...] = ()  # who may use it, beside those that name it; "*" is everyone

    @field_validator("parameters")
    @classmethod
    def _object(cls, schema: dict[str, Any]) -> dict[str, Any]:
        if schema.get("type") != "object":
            raise ValueError("must be a JSON schema with `type: object`")
        if (problem := schema_problem(schema)) is not None:
            raise ValueError(problem)
        return schema


class PriceSpec(Part):
    """US dollars per million tokens."""

    input: Decimal = Field(ge=0)
    output: Decimal = Field(ge=0)
    cached: Decimal | None = Field(default=None, ge=0)

    @field_validator("*", mode="before")
    @classmethod
    def _exact(cls, value: object) -> object:
        return str(value) if isinstance(value, float) else value


class ModelSpec(Part):
    """An entry of models.yaml; its key is the model_code."""

    model: str
    context_window: int = Field(ge=1)
    price_per_million: PriceSpec | None = None

    @field_validator("model")
    @classmethod
    def _routed(cls, model: str) -> str:
        if provider_of(model) is None:
            raise ValueError("must be `provider/model` with a provider that LiteLLM routes, such as openai/gpt-5-mini")
        return model


class PromptsSpec(Part):
    """Column `prompts` of a system_agents row."""

    role: Prompt | None = None
    goal: Prompt | None = None
    backstory: Prompt | None = None
    description: Prompt | None = None
    expected_output: Prompt | None = None


class AgentRow(Part):
    """A row of system_agents; what it leaves out comes from the YAML files."""

    agent_type: str
    model_code: str | None = None
    llm_params: LlmParams = LlmParams()
    prompts: PromptsSpec = PromptsSpec()
    enabled: bool = True


def complain(where: str, path: str, message: str) -> ConfigError:
    """The error for the key at `path` in `where`, a file or table."""
    return ConfigError(f"{where}: {path}: {message}" if path else f"{where}: {message}")


def first_problem(error: ValidationError) -> tuple[tuple[str, ...], str]:
    """The key path and the text of a validation error's first complaint; never shows the value."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    text = {"extra_forbidden": "unknown key; remove it or correct its spelling", "missing": "is missing"}.get(
        first["type"], first["msg"].removeprefix("Value error, ")
    )
    return tuple(str(part) for part in first["loc"]), text
