"""The one door to CrewAI and LiteLLM: importing them from here makes sure that their off-switches are set first."""

# ruff: noqa: E402
from __future__ import annotations

from callboard_runtime.llm.setup import load

load()

import litellm
from crewai import Agent, Crew, Process, Task
from crewai.agents.agent_builder.base_agent import BaseAgent
from crewai.agents.agent_executor import AgentExecutor, AgentExecutorState
from crewai.llms.base_llm import BaseLLM
from crewai.tools.base_tool import BaseTool
from crewai.utilities.string_utils import sanitize_tool_name
from litellm.llms.custom_llm import CustomLLM, CustomLLMError
from litellm.llms.openai.chat.gpt_transformation import OpenAIChatCompletionStreamingHandler
from litellm.llms.openrouter.chat.transformation import OpenRouterChatCompletionStreamingHandler
from litellm.types.utils import ModelResponseStream
from openai import AsyncStream

__all__ = [
    "Agent",
    "AgentExecutor",
    "AgentExecutorState",
    "AsyncStream",
    "BaseAgent",
    "BaseLLM",
    "BaseTool",
    "Crew",
    "CustomLLM",
    "CustomLLMError",
    "ModelResponseStream",
    "OpenAIChatCompletionStreamingHandler",
    "OpenRouterChatCompletionStreamingHandler",
    "Process",
    "Task",
    "litellm",
    "sanitize_tool_name",
]
