"""In: a run's brief, its journal and its event stream. Out: what its flow came to.

The flow runs from its beginning in every attempt; its model calls and what its methods left are answered from the
journal until that is used up. A resumed leg is a fresh kickoff with the answers among its messages.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from typing import Any

import orjson
from crewai.events.stream_context import add_stream_sink

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.pause import ReplayDiverged, RunPaused, RunReleased, RunStopped, StopReason, StopSignal
from callboard_runtime.crew.ports import Journal
from callboard_runtime.crew.runtime import CrewOutcome
from callboard_runtime.crew.trims import apply_trims
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.entry.brief import RunBrief
from callboard_runtime.errors import CallboardError, ConfigError, RunCancelling
from callboard_runtime.flows.inputs import kickoff_inputs
from callboard_runtime.flows.journal import LegJournal
from callboard_runtime.flows.loading import SDK, load_flow
from callboard_runtime.flows.models import FlowModels
from callboard_runtime.flows.patches import MODELS
from callboard_runtime.flows.progress import Progress, as_json
from callboard_runtime.llm.caller import ModelCaller
from callboard_runtime.llm.messages import ToolCall
from callboard_runtime.llm.scripted import register
from callboard_runtime.settings import Settings

_UNMETERED = (
    "the flow asks {model} through CrewAI, where it is neither journaled nor metered; "
    "use litellm.acompletion, or make the crew a workflow of its own"
)


class FlowRuntime:
    """One leg of one run of a flow; raises ConfigError when the flow cannot be made."""

    def __init__(self, brief: RunBrief, journal: Journal, stream: RunStream, settings: Settings) -> None:
        config = brief.config.flow
        if config is None:
            raise ConfigError(f"workflow.yaml: {brief.agent_id}.flow: is missing")
        self._brief, self._stream, self._settings = brief, stream, settings
        self._flow: Any = _made(load_flow(brief.agent_id, config.flow, settings.config.dir), brief.agent_id)
        self._inputs = kickoff_inputs(brief)
        self._stop = StopSignal()
        self._journal = LegJournal(journal, brief.leg)
        self._caller = ModelCaller(self._journal, settings.llm, self._stop)
        self._progress = Progress(
            self._journal, stream, self._inputs, lambda: as_json(self._flow.state), self._fail,
            settings.runs.max_state_bytes,
        )  # fmt: skip
        self._models = FlowModels(self._caller, self._journal, self._progress, settings.llm, config.llm)
        self._task: asyncio.Task[None] | None = None
        self._failure: CallboardError | None = None

    def stop(self, reason: StopReason) -> None:
        """Ask the run to stop: `cancel` breaks off a model's answer, `release` waits for the next model call."""
        self._stop.stop(reason)

    async def run(self) -> CrewOutcome:
        """Run the flow to its end, its pause or its stop.

        Raises ModelError, ReplayDiverged, ConfigError, what the journal raised and what the flow raised; the events
        that close what is open are emitted in every case. A cancelled caller may still `settle`.
        """
        apply_trims()
        register(self._settings.llm)
        # A context of its own: CrewAI leaves things in it when a run is broken off.
        self._task = asyncio.create_task(self._kickoff(), context=contextvars.copy_context())
        try:
            await self._finished(self._task)
            return CrewOutcome("finished", self._progress.text)
        except RunPaused as pause:
            return CrewOutcome("paused", calls=pause.calls)
        except RunStopped as stopped:
            return await self._stopped(stopped.error)
        finally:
            self._task.cancel()
            self._stop.stop("cancel")
            self._stream.close_open()

    async def settle(self) -> None:
        """Record what was received of interrupted answers, once; raises what the journal raises."""
        records, messages = self._caller.take_unsent()
        if records:
            await self._journal.record(*records, messages=messages)

    async def _kickoff(self) -> None:
        MODELS.set(self._models)
        add_stream_sink(self._see)
        if SDK in sys.modules:
            from ag_ui_crewai.context import flow_context  # pyright: ignore[reportMissingImports, reportUnknownVariableType]

            flow_context.set(self._flow)  # pyright: ignore[reportUnknownMemberType]
        await self._flow.kickoff_async(inputs=self._inputs)

    async def _finished(self, task: asyncio.Task[None]) -> None:
        try:
            await task
        except asyncio.CancelledError:
            if self._failure is None:
                raise
        if self._failure is not None:
            raise self._failure
        try:
            await self._progress.commit()
        except CallboardError as error:
            raise RunStopped(error) from error
        if left := self._journal.unreplayed():
            raise ReplayDiverged(f"step {left[0]}: recorded, but the flow ended without asking for it")
        if calls := self._open_calls():
            raise RunPaused(calls)

    def _see(self, source: Any, event: Any) -> None:
        if event.type == "llm_call_started":
            # Raised where CrewAI is about to ask: nothing has been sent yet.
            raise RunStopped(ConfigError(_UNMETERED.format(model=event.model)))
        own = source is self._flow
        loop = self._task.get_loop() if self._task is not None else asyncio.get_running_loop()
        if _is_running(loop):
            self._progress.see(event, own=own)
        else:
            loop.call_soon_threadsafe(lambda: self._progress.see(event, own=own))

    def _fail(self, error: CallboardError) -> None:
        """End the flow: an event cannot raise into it."""
        if self._failure is None and self._task is not None:
            self._failure = error
            self._stop.stop("cancel")
            self._task.cancel()

    async def _stopped(self, error: CallboardError) -> CrewOutcome:
        if self._failure is not None:
            raise self._failure
        if isinstance(error, RunCancelling):
            text = self._caller.partial_text
            self._stream.close_open()
            await self.settle()
            return CrewOutcome("cancelled", text)
        if isinstance(error, RunReleased):
            return CrewOutcome("released")
        raise error

    def _open_calls(self) -> tuple[PendingToolCall, ...]:
        """The frontend's tools that the flow's last turn called and left to the frontend."""
        frontend = {str(tool.get("name")) for tool in self._brief.input.tools}
        return tuple(self._pending(call) for call in self._progress.calls.values() if call.name in frontend)

    def _pending(self, call: ToolCall) -> PendingToolCall:
        return PendingToolCall(
            tool_call_id=call.id,
            tool_name=call.name,
            args=orjson.loads(call.arguments or "{}"),
            mode=ToolMode.FRONTEND_EXECUTE,
            status=ToolCallStatus.PENDING_RESULT,
            run_id=self._brief.leg_run_id,
        )


def _made(flow: type[Any], agent_id: str) -> Any:
    try:
        return flow()
    except Exception as error:  # whatever its constructor does
        raise ConfigError(f"workflow.yaml: {agent_id}.flow: cannot be made: {type(error).__name__}: {error}") from error


def _is_running(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False
