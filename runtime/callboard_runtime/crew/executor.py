"""The agent loop: asks the model, runs the calls of its answer, and asks again until it answers with text alone.

CrewAI's own loop is a state machine that hops through threads and hides a tool's call id; this one is its replacement
through CrewAI's `executor_class`, on the worker's loop, and may be entered several times at once.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from callboard_runtime.crew.context import CURRENT, PLACE, Place, RunContext
from callboard_runtime.crew.toolbox import Toolbox
from callboard_runtime.crew.trims import TrimmedExecutor
from callboard_runtime.llm.client import CallboardLLM

OUT_OF_TURNS = (
    "You have used up your tool calls for this task. Give your best final answer now, from what you know, "
    "without calling another tool."
)


class JournaledExecutor(TrimmedExecutor):
    """Runs one agent's tasks; what the model and the tools do is journaled by them."""

    async def ainvoke(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The agent's answer to `inputs["input"]`, the rendered task."""
        run = CURRENT.get()
        place = PLACE.get()
        if place is None:
            place = Place(_stage_of(self))
            run.steps.enter(place.stage, replaying=bool(run.journal.unreplayed()))
        token = PLACE.set(place)
        try:
            return {"output": await self._converse(run, inputs)}
        finally:
            PLACE.reset(token)

    invoke_async = ainvoke

    def invoke(self, inputs: dict[str, Any]) -> dict[str, Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # never a coroutine here
        """The same for a coworker, whom CrewAI asks from a thread; the context goes along."""
        return asyncio.run_coroutine_threadsafe(self.ainvoke(inputs), CURRENT.get().loop).result()

    async def _converse(self, run: RunContext, inputs: dict[str, Any]) -> str:
        llm = cast(CallboardLLM, self.llm)
        messages = self._opening(inputs)
        toolbox = Toolbox.of(self.original_tools)
        for turn in range(self.max_iter):
            last = turn == self.max_iter - 1
            if last and turn:
                messages.append({"role": "user", "content": OUT_OF_TURNS})
            offered = Toolbox({}) if last else toolbox
            answer = await llm.answer(messages, offered.wire(), toolbox.names(), offered.takes)
            if last or not answer.tool_calls:
                return answer.text
            messages.append(answer.to_wire())
            messages += await run.turn.results(answer, toolbox)
        raise AssertionError("max_iter is at least 1")

    def _opening(self, inputs: dict[str, Any]) -> list[dict[str, Any]]:
        prompt = self.prompt
        assert prompt is not None
        system = getattr(prompt, "system", "")
        user = getattr(prompt, "user", "") or prompt.prompt
        opening = [{"role": "system", "content": system}] if system else []
        # One replacement only: CrewAI would also expand `{tools}` inside what the user wrote.
        return [*opening, {"role": "user", "content": user.replace("{input}", inputs["input"]).strip()}]


def _stage_of(executor: JournaledExecutor) -> str:
    task = executor.task
    return str(task.name) if task is not None and task.name else "task"
