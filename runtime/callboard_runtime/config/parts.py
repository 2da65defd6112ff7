"""The pieces of a resolved configuration: stages with their agents, models, tasks and tools."""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

SCRIPTED_PROVIDER = "callboard-scripted"
SCRIPTED_MODEL = "scripted"


class Part(BaseModel):
    """A piece of configuration: replaced, never changed; an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Process(StrEnum):
    SEQUENTIAL = "sequential"  # each stage's agent does its own task, in order
    HIERARCHICAL = "hierarchical"  # the manager hands the tasks to the agents


class LlmParams(Part):
    """What is sent along with every request to a model; None leaves it to the provider."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, ge=1)
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    presence_penalty: float | None = Field(default=None, ge=-2, le=2)
    frequency_penalty: float | None = Field(default=None, ge=-2, le=2)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    extra_body: dict[str, JsonValue] | None = None

    def request(self) -> dict[str, Any]:
        """The parameters that are set, as keyword arguments of a LiteLLM call."""
        given = self.model_dump(exclude_none=True)
        return given | ({"stop": list(self.stop)} if self.stop else {})


class ModelConfig(Part):
    """A model: how LiteLLM calls it, and its prices in US dollars per token (None: not known)."""

    model_code: str
    provider: str
    model: str  # LiteLLM's name, with the provider before the first slash
    context_window: int = Field(ge=1)  # tokens
    input_price: Decimal | None = None
    output_price: Decimal | None = None
    cached_price: Decimal | None = None


class LlmConfig(ModelConfig):
    """The model of an agent; `fallbacks` are tried in order when it fails for good."""

    params: LlmParams = LlmParams()
    fallbacks: tuple[ModelConfig, ...] = ()


class AgentConfig(Part):
    """Who does the work: prompt templates."""

    name: str
    role: str
    goal: str
    backstory: str
    max_iterations: int = Field(default=20, ge=1)  # model calls in one task


class TaskConfig(Part):
    """What is to be done: prompt templates."""

    description: str
    expected_output: str


class ToolConfig(Part):
    """A backend tool."""

    name: str
    function: str  # "module:function"
    description: str
    parameters: dict[str, Any]  # JSON schema of the arguments
    timeout: float = Field(default=60, gt=0)  # seconds
    idempotent: bool = False
    requires_approval: bool = False


class StageConfig(Part):
    """One stage of the workflow."""

    name: str
    agent: AgentConfig
    llm: LlmConfig
    task: TaskConfig
    visible: bool  # its text becomes an assistant message
    tools: tuple[str, ...] = ()  # keys of `RuntimeConfig.tools`


class ManagerConfig(Part):
    """The agent that hands out the tasks of a hierarchical workflow."""

    agent: AgentConfig
    llm: LlmConfig


class FlowConfig(Part):
    """A flow: its class, and the model that answers it instead of those that its calls name."""

    flow: str  # "module:Class"
    llm: LlmConfig | None = None
