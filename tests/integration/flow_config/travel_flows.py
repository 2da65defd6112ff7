"""Flows as users of ag-ui-crewai write them: nothing in here knows of Callboard."""

import asyncio
import contextlib
import json

from ag_ui_crewai.sdk import (
    CopilotKitState,
    copilotkit_emit_state,
    copilotkit_emit_tool_result,
    copilotkit_predict_state,
    copilotkit_stream,
)
from crewai import LLM, Agent
from crewai.flow.flow import Flow, listen, router, start
from litellm import acompletion, completion
from pydantic import Field

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather at a place",
        "parameters": {"type": "object", "properties": {"label": {"type": "string"}}},
    },
}


class TravelState(CopilotKitState):
    plan: list[str] = Field(default_factory=list)
    drafts: int = 0


class TravelFlow(Flow[TravelState]):
    """Drafts unseen, then talks; runs `weather` itself and leaves every other tool to the frontend."""

    @start()
    async def draft(self) -> None:
        if self.state.messages[-1]["role"] == "tool":
            return
        await copilotkit_emit_state({"progress": "drafting"})
        await acompletion(model="openai/gpt-5-mini", messages=[{"role": "user", "content": "key:draft make a draft"}])
        self.state.drafts += 1

    @router(draft)
    async def chat(self) -> str:
        await copilotkit_predict_state({"plan": {"tool_name": "set_plan", "tool_argument": "plan"}})
        response = await copilotkit_stream(
            await acompletion(
                model="openai/gpt-5-mini",
                messages=[{"role": "system", "content": "You plan travels."}, *self.state.messages],
                tools=[*self.state.copilotkit.actions, WEATHER],
                parallel_tool_calls=False,
                stream=True,
            )
        )
        message = response.choices[0].message
        self.state.messages.append(message)
        calls = message.tool_calls or []
        if calls and calls[0].function.name == "weather":
            label = json.loads(calls[0].function.arguments)["label"]
            result = f"sunny at {label}"
            self.state.messages.append({"role": "tool", "content": result, "tool_call_id": calls[0].id})
            await copilotkit_emit_tool_result(calls[0].id, result)
            return "again"
        return "done"

    @listen("again")
    async def conclude(self) -> None:
        response = await copilotkit_stream(
            await acompletion(model="openai/gpt-5-mini", messages=self.state.messages, stream=True)
        )
        self.state.messages.append(response.choices[0].message)
        self.state.plan.append("concluded")


class PlainFlow(Flow[CopilotKitState]):
    """Asks twice at once without streaming, and says what came of it in its own words."""

    @start()
    async def work(self) -> None:
        prompts = [[{"role": "user", "content": f"{self.state.messages[-1]['content']} {n}"}] for n in (1, 2)]
        first, second = await asyncio.gather(*(acompletion(model="gpt-4o", messages=prompt) for prompt in prompts))
        texts = [answer.choices[0].message.content for answer in (first, second)]
        self.state.messages.append({"role": "assistant", "content": " | ".join(texts)})


class TooMuch(Flow[CopilotKitState]):
    """Says, or shows, more than any command to the session's actor could carry."""

    @start()
    async def work(self) -> None:
        match self.state.messages[-1]["content"]:
            case "message":
                self.state.messages.append({"role": "assistant", "content": "x" * 1_200_000})
            case "result":
                await copilotkit_emit_tool_result("call", "\n" * 600_000)
            case "custom":
                await copilotkit_predict_state({"x" * 1_200_000: {"tool_name": "set_plan", "tool_argument": "plan"}})


class CrewInside(Flow[CopilotKitState]):
    """Has an agent of CrewAI do the work."""

    @start()
    async def work(self) -> None:
        llm = LLM(model="openai/held", api_key="sk-not-a-real-one", base_url="http://127.0.0.1:9/v1")
        await Agent(role="writer", goal="Write", backstory="You write.", llm=llm).kickoff_async("hello")


class PastLiteLLM(Flow[CopilotKitState]):
    """Asks in a way that cannot be journaled, and swallows whatever comes of it."""

    @start()
    async def work(self) -> None:
        with contextlib.suppress(Exception):
            completion(model="gpt-4o", messages=[{"role": "user", "content": "hello"}])
