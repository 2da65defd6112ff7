"""In: a run's brief, its journal and its event stream. Out: what its crew came to.

The crew is built anew in every attempt and answered from the journal until that is used up; then it is live.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import orjson

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.config.parts import LlmConfig
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.config.templates import variables_of
from callboard_runtime.crew.context import CURRENT, Place, RunContext
from callboard_runtime.crew.factory import CrewParts, build
from callboard_runtime.crew.history import chat_messages, text_of
from callboard_runtime.crew.memory_journal import MemoryJournal, MemorySink
from callboard_runtime.crew.pause import ReplayDiverged, RunPaused, RunReleased, RunStopped, StopReason, StopSignal
from callboard_runtime.crew.ports import Journal
from callboard_runtime.crew.stages import StageSteps
from callboard_runtime.crew.turn import Turn
from callboard_runtime.crew.view import StageView
from callboard_runtime.domain.state_snapshot import PendingToolCall
from callboard_runtime.entry.brief import RunBrief
from callboard_runtime.errors import CallboardError, RunCancelling
from callboard_runtime.llm.caller import ModelCaller
from callboard_runtime.llm.client import CallboardLLM
from callboard_runtime.llm.libraries import Crew
from callboard_runtime.llm.scripted import register
from callboard_runtime.llm.threads import LoopThreads
from callboard_runtime.settings import Settings
from callboard_runtime.tools.registry import backend_tool
from callboard_runtime.tools.spec import Tool, frontend_tools
from callboard_runtime.tools.state import SharedState

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CrewOutcome:
    """How a leg ended inside the crew; everything it made is recorded, everything it opened is closed."""

    status: Literal["finished", "paused", "cancelled", "released"]
    text: str = ""  # the last stage's answer
    calls: tuple[PendingToolCall, ...] = ()  # paused: what it waits for


def prepare_loop(loop: asyncio.AbstractEventLoop, concurrency: int) -> None:
    """Give the loop enough threads for `concurrency` runs: some for plain functions, others for delegations."""
    loop.set_default_executor(LoopThreads(loop, 2 * concurrency + 8))


class CrewAIRuntime:
    """One leg of one run. `CrewAIRuntime(config)` alone is enough to look at its crew."""

    def __init__(
        self,
        brief: RunBrief | RuntimeConfig | None = None,
        journal: Journal | None = None,
        stream: RunStream | None = None,
        settings: Settings | None = None,
        *,
        config: RuntimeConfig | None = None,
    ) -> None:
        self._brief = brief if isinstance(brief, RunBrief) else None
        self._config = config or (brief.config if isinstance(brief, RunBrief) else brief)
        if self._config is None:
            raise TypeError("CrewAIRuntime needs a RunBrief or a RuntimeConfig")
        self._journal: Journal = journal or MemoryJournal(self._brief.journal if self._brief else ())
        self._stream = stream or RunStream(MemorySink())
        self._settings = settings or Settings()
        self._steps = StageSteps(self._stream)
        self._stop = StopSignal()
        self._caller = ModelCaller(self._journal, self._settings.llm, self._stop)
        self._loop: asyncio.AbstractEventLoop | None = None

    # -- the crew -----------------------------------------------------------------------------------------------------

    def build_crew(self, message: str | None = None) -> Crew:
        """The crew, its prompts filled in with `message`, by default the run's own.

        Raises ConfigError for a tool that cannot be loaded and InvalidInput for a frontend tool without a schema.
        """
        assert self._config is not None
        text = self.message if message is None else message
        declared = self._brief.input.tools if self._brief else ()
        parts = CrewParts(
            make_llm=lambda stage, config: self._llm(stage, config, text),
            values=self._values(text),
            backend_tools=self._backend_tools(),
            frontend_tools=frontend_tools(declared),
        )
        return build(self._config, parts)

    @cached_property
    def message(self) -> str:
        """The text of the newest user message."""
        if self._brief is None:
            return ""
        known = [*self._brief.history, *self._brief.input.messages]
        return next((text_of(item.content) for item in reversed(known) if item.role == "user"), "")

    def _llm(self, stage: str, config: LlmConfig, text: str) -> CallboardLLM:
        return CallboardLLM.make(
            stage,
            config,
            self._settings.llm,
            self._caller,
            self._view,
            history=self._history(stage),
            user_text=text,
            loop=self._loop,
        )

    def _history(self, stage: str) -> list[dict[str, Any]]:
        """The conversation; without its last user message where the task's prompt repeats that."""
        assert self._config is not None
        if self._brief is None:
            return []
        known = self._brief.history
        asked = [self._config.stages[stage]] if stage in self._config.stages else self._config.stages.values()
        repeats = any("message" in variables_of(part.task.description) for part in asked)
        if repeats and known and known[-1].role == "user" and isinstance(known[-1].content, str):
            known = known[:-1]
        return chat_messages(known)

    def _view(self, place: Place) -> StageView:
        assert self._config is not None
        stage = self._config.stages.get(place.stage)
        visible = stage is not None and stage.visible and not place.below
        return StageView(self._stream, self._steps, visible=visible)

    def _values(self, text: str) -> dict[str, str]:
        brief = self._brief
        return {
            "message": text,
            "state": _json(brief.initial_state if brief else None),
            "context": _json(list(brief.input.context) if brief else []),
            "thread_id": brief.thread_id if brief else "",
            "run_id": brief.leg_run_id if brief else "",
            "user_id": brief.user_id if brief else "",
            "agent_id": self._config.agent_id if self._config else "",
        }

    def _backend_tools(self) -> dict[str, Tool]:
        assert self._config is not None
        used = {name for stage in self._config.stages.values() for name in stage.tools}
        directory = self._settings.config.dir
        return {name: backend_tool(self._config.tools[name], directory) for name in sorted(used)}

    # -- the run ------------------------------------------------------------------------------------------------------

    def stop(self, reason: StopReason) -> None:
        """Ask the run to stop: `cancel` breaks off a model's answer, `release` waits for the next step boundary."""
        self._stop.stop(reason)

    async def run(self) -> CrewOutcome:
        """Run the crew to its end, its pause or its stop.

        Raises ModelError, ReplayDiverged, ConfigError, and what the journal raised; the events that close what is
        open are emitted in every case. A cancelled caller may still `settle`.
        """
        self._loop = asyncio.get_running_loop()
        register(self._settings.llm)
        # A context of its own: CrewAI leaves things in it when a run is broken off.
        task = self._loop.create_task(self._kickoff(), context=contextvars.copy_context())
        try:
            text = await task
            self._require_all_replayed()
            self._steps.leave()
            return CrewOutcome("finished", text)
        except RunPaused as pause:
            return CrewOutcome("paused", calls=pause.calls)
        except RunStopped as stopped:
            return await self._stopped(stopped.error)
        finally:
            task.cancel()
            self._stop.stop("cancel")  # a coworker's model stream may still run
            self._stream.close_open()

    async def settle(self) -> None:
        """Record what was received of interrupted answers, once; raises what the journal raises."""
        records, messages = self._caller.take_unsent()
        if records:
            await self._journal.record(*records, messages=messages)

    async def _kickoff(self) -> str:
        assert self._loop is not None
        CURRENT.set(self._context(self._loop))
        output: Any = await self.build_crew().akickoff()  # pyright: ignore[reportUnknownMemberType]  # untyped files
        return str(output.raw)

    async def _stopped(self, error: CallboardError) -> CrewOutcome:
        if isinstance(error, RunCancelling):
            text = self._caller.partial_text
            self._stream.close_open()
            await self.settle()
            return CrewOutcome("cancelled", text)
        if isinstance(error, RunReleased):
            return CrewOutcome("released")
        raise error

    def _require_all_replayed(self) -> None:
        if left := self._journal.unreplayed():
            raise ReplayDiverged(f"step {left[0]}: recorded, but the crew ended without asking for it")

    def _context(self, loop: asyncio.AbstractEventLoop) -> RunContext:
        run = RunContext(
            loop=loop,
            journal=self._journal,
            stream=self._stream,
            steps=self._steps,
            stop=self._stop,
            settings=self._settings.runs,
        )
        run.tools = frozenset(self._config.tools) if self._config else frozenset()
        if (brief := self._brief) is not None:
            run.user_id, run.thread_id, run.run_id = brief.user_id, brief.thread_id, brief.run_id
            run.leg_run_id = brief.leg_run_id
            run.state = SharedState(brief.shared_state, self._settings.runs.max_state_bytes)
            run.unknown = _unknown_calls(brief)
        run.turn = Turn(run)
        return run


def _unknown_calls(brief: RunBrief) -> dict[str, int]:
    """Calls whose process died inside the tool, and the last epoch in which it was started; journals are in order."""
    recorded = {row.key for row in brief.journal if row.status == "recorded"}
    return {
        row.key.removeprefix("tool:"): row.epoch
        for row in brief.journal
        if row.kind == "tool" and row.status in ("begun", "unknown") and row.key not in recorded
    }


def _json(value: Any) -> str:
    return orjson.dumps(value, default=str).decode()
