"""In: the tool calls of one model answer. Out: a journaled result for each, or one pause for those that must wait.

Direct calls run side by side. A turn pauses once, after every direct call of it is recorded.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import uuid
from typing import Any, cast

import orjson

from callboard_runtime.crew.context import PLACE, Place, RunContext
from callboard_runtime.crew.pause import ReplayDiverged, RunPaused, RunStopped
from callboard_runtime.crew.toolbox import Asked, Offer, Toolbox
from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import CallboardError
from callboard_runtime.faults import fault_point
from callboard_runtime.llm.messages import ModelAnswer, ToolCall
from callboard_runtime.llm.threads import delegation_threads
from callboard_runtime.observe.worker import REPLAYED
from callboard_runtime.tools.execute import ToolResult, bounded, execute, failure
from callboard_runtime.tools.spec import Tool, ToolContext
from callboard_runtime.tools.state import StateChange, StateError, StateView

_AS_STATUS = {
    ToolMode.FRONTEND_EXECUTE: ToolCallStatus.PENDING_RESULT,
    ToolMode.BACKEND_APPROVAL_INTERRUPT: ToolCallStatus.PENDING_APPROVAL,
    ToolMode.BACKEND_DIRECT_EXECUTE: ToolCallStatus.OUTCOME_UNKNOWN,
}

_QUESTIONS = {
    ToolMode.BACKEND_APPROVAL_INTERRUPT: "May {name} be run with these arguments?",
    ToolMode.BACKEND_DIRECT_EXECUTE: "{name} was started and its process died: run it again, or let it fail?",
}


def step_key(call_id: str) -> str:
    """The journal key of a tool call's execution."""
    return f"tool:{call_id}"


def answer_key(call_id: str) -> str:
    """The journal key of what a person or a client answered to a call."""
    return f"answer:{call_id}"


class Turn:
    """Runs the calls of a run's turns. Raises RunPaused and RunStopped, which nothing in CrewAI catches."""

    def __init__(self, run: RunContext) -> None:
        self._run = run

    async def results(self, answer: ModelAnswer, toolbox: Toolbox) -> list[dict[str, Any]]:
        """The tool messages that the model gets, in the order of its calls."""
        jobs = [self._settle(call, toolbox.read(call)) for call in answer.tool_calls]
        outcomes = await asyncio.gather(*jobs, return_exceptions=True)
        _raise_first_stop(outcomes)
        pauses = [outcome for outcome in outcomes if isinstance(outcome, RunPaused)]
        if pauses:
            raise RunPaused(tuple(call for pause in pauses for call in pause.calls))
        results = cast(list[ToolResult], outcomes)
        return [_tool_message(call, result) for call, result in zip(answer.tool_calls, results, strict=True)]

    async def _settle(self, call: ToolCall, asked: Asked) -> ToolResult:
        offer = asked.offer
        try:
            if offer is None or asked.problem is not None:
                return await self._refused(call, asked)
            if offer.crewai is not None:
                return await self._delegated(call, offer, asked.arguments)
            return await self._routed(call, offer, asked.arguments)
        except CallboardError as error:
            raise RunStopped(error) from error

    # -- the four kinds -----------------------------------------------------------------------------------------------

    async def _refused(self, call: ToolCall, asked: Asked) -> ToolResult:
        """Tell the model alone: the call was never shown, so neither events nor messages know of it."""
        if (replayed := self._replayed(call)) is not None:
            return replayed
        elsewhere = asked.offer is None and call.name in self._run.tools
        problem = f"this agent was not granted the tool {call.name!r}" if elsewhere else asked.problem
        result = failure(problem or "")
        await self._begin(call)
        self._run.steps.live()
        await self._run.journal.record(StepRecord(key=step_key(call.id), result=_recorded(result)))
        return result

    async def _routed(self, call: ToolCall, offer: Offer, arguments: dict[str, Any]) -> ToolResult:
        mode = offer.tool.decision().mode
        answered = self._answered(call)
        if mode is ToolMode.FRONTEND_EXECUTE:
            if answered is None:
                raise _pause(self._run, call, offer.tool, arguments, mode)
            return client_result(answered)
        if (replayed := self._replayed(call)) is not None:
            return replayed
        if self._outcome_unknown(call) and not offer.tool.idempotent:
            raise _pause(self._run, call, offer.tool, arguments, ToolMode.BACKEND_DIRECT_EXECUTE)
        if answered is None and mode is ToolMode.BACKEND_APPROVAL_INTERRUPT:
            raise _pause(self._run, call, offer.tool, arguments, mode)
        return await self._execute(call, offer, arguments, answered)

    async def _execute(
        self, call: ToolCall, offer: Offer, arguments: dict[str, Any], answered: PendingToolCall | None
    ) -> ToolResult:
        instead = _instead(answered)
        if instead is not None:
            return await self._record(call, bounded(instead, self._run.settings.max_tool_result_bytes), begin=True)
        arguments = answered.args if answered is not None else arguments
        if (problem := offer.tool.problem(arguments)) is not None:
            return await self._record(call, failure(problem), begin=True)
        await self._begin(call)
        fault_point("before_tool")
        run, view = self._run, self._run.state.view()
        context = ToolContext(call.id, call.name, run.user_id, run.thread_id, run.run_id, view)
        result = await execute(offer.tool, arguments, context, run.settings.max_tool_result_bytes)
        fault_point("after_tool")
        result, change = self._changed(result, view)
        return await self._record(call, result, change=change)

    def _changed(self, result: ToolResult, view: StateView) -> tuple[ToolResult, StateChange | None]:
        """The result with what it does to the shared state; a failed tool does nothing to it."""
        if result.failed:
            return result, None
        try:
            return result, self._run.state.take(view)
        except StateError as error:
            return failure(f"the tool ran, but its change is lost, as another one was faster: {error}"), None

    async def _delegated(self, call: ToolCall, offer: Offer, arguments: dict[str, Any]) -> ToolResult:
        """Let a coworker do it: its steps are journaled one by one, so it is entered again in every replay."""
        assert offer.crewai is not None
        recorded = self._replayed(call)
        if recorded is None:
            await self._begin(call)
        place = PLACE.get() or Place("")
        context = contextvars.copy_context()
        context.run(PLACE.set, place.under(call.id))
        run = offer.crewai._run  # pyright: ignore[reportPrivateUsage]  # `run` would print and count
        threads = delegation_threads(self._run.loop)
        content = await self._run.loop.run_in_executor(threads, lambda: context.run(run, **arguments))
        return recorded or await self._record(call, ToolResult(str(content)))

    # -- journal and events -------------------------------------------------------------------------------------------

    def _replayed(self, call: ToolCall) -> ToolResult | None:
        row = self._run.journal.find(step_key(call.id))
        if row is None or row.status != "recorded":
            return None
        if row.digest != _digest(call):
            raise ReplayDiverged(f"step {row.key}: the tool call differs from the recorded one")
        REPLAYED.labels("tool").inc()
        return ToolResult(str(row.result["content"]), bool(row.result.get("failed")))

    def _answered(self, call: ToolCall) -> PendingToolCall | None:
        row = self._run.journal.find(answer_key(call.id))
        return None if row is None else PendingToolCall.model_validate(row.result)

    def _outcome_unknown(self, call: ToolCall) -> bool:
        """Whether a process died inside the tool, and nobody has decided since: an answer is good for one start."""
        started, row = self._run.unknown.get(call.id), self._run.journal.find(answer_key(call.id))
        return started is not None and (row is None or started > row.epoch)

    async def _begin(self, call: ToolCall) -> None:
        self._run.stop.check()
        await self._run.journal.begin(
            StepBegin(key=step_key(call.id), kind="tool", name=call.name, digest=_digest(call), tool_call_id=call.id)
        )

    async def _record(
        self, call: ToolCall, result: ToolResult, *, begin: bool = False, change: StateChange | None = None
    ) -> ToolResult:
        if begin:
            await self._begin(call)
        message_id = str(uuid.uuid4())
        self._run.steps.live()
        self._run.stream.call_result(call.id, result.content, message_id)
        if change is not None:
            self._show(change)
        message = NewMessage(
            message_id=message_id, role="tool", content=result.content, tool_call_id=call.id, name=call.name
        )
        record = StepRecord(key=step_key(call.id), result=_recorded(result) | {"message_id": message_id})
        await self._run.journal.record(record, messages=(message,), state=change.value if change else None)
        fault_point("after_tool_record")
        return result

    def _show(self, change: StateChange) -> None:
        if change.operations is None:
            self._run.stream.state_snapshot(change.value)
        else:
            self._run.stream.state_delta(change.operations)


def _pause(run: RunContext, call: ToolCall, tool: Tool, arguments: dict[str, Any], mode: ToolMode) -> RunPaused:
    """The pause that this call needs, with what the human is asked and how an answer looks.

    When it was asked and when it expires is the actor's to say: one clock for all runs.
    """
    asks = mode is not ToolMode.FRONTEND_EXECUTE
    pending = PendingToolCall(
        tool_call_id=call.id,
        tool_name=call.name,
        args=arguments,
        mode=mode,
        status=_AS_STATUS[mode],
        run_id=run.leg_run_id,
        interrupt_id=f"int_{uuid.uuid4().hex}" if asks else None,
        message=_QUESTIONS[mode].format(name=call.name) if asks else None,
        response_schema=_answer_schema(tool, mode) if asks else None,
    )
    return RunPaused((pending,))


def _answer_schema(tool: Tool, mode: ToolMode) -> dict[str, Any]:
    """The payload of an answer: approve with or without other arguments, or say what to do about an unknown outcome."""
    if mode is ToolMode.BACKEND_DIRECT_EXECUTE:
        return {"type": "object", "properties": {"outcome": {"enum": ["retry", "fail"]}}}
    properties = {"approved": {"type": "boolean"}, "editedArgs": dict(tool.parameters), "reason": {"type": "string"}}
    return {"type": "object", "properties": properties, "required": ["approved"]}


def _raise_first_stop(outcomes: list[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, RunPaused):
            raise outcome


def _recorded(result: ToolResult) -> dict[str, Any]:
    """The journal's form."""
    return {"content": result.content, "failed": result.failed}


def _digest(call: ToolCall) -> str:
    return hashlib.sha256(orjson.dumps([call.name, call.arguments])).hexdigest()


def _tool_message(call: ToolCall, result: ToolResult) -> dict[str, Any]:
    wire = call.to_wire()
    return {
        "role": "tool",
        "tool_call_id": wire["id"],
        "name": wire["function"]["name"],
        "content": result.content,
    }


def client_result(answered: PendingToolCall) -> ToolResult:
    """What the client's tool came to; its tool message is in the conversation already."""
    if answered.status is ToolCallStatus.EXECUTED:
        return _given(answered)
    return failure(f"the tool was not run ({answered.status.lower()})")


def _instead(answered: PendingToolCall | None) -> ToolResult | None:
    """What the model is told without running the tool; None: run it."""
    if answered is None or answered.status is ToolCallStatus.APPROVED:
        return None
    if answered.status is ToolCallStatus.EXECUTED:
        return _given(answered)
    said = _said(answered)
    if said.get("status") == "fail":
        return failure("the tool may or may not have taken effect: its process died while it ran")
    reason = _reason(said.get("payload"))
    return failure(f"the call was not approved ({answered.status.lower()}{reason}); do not try it again without asking")


def _given(answered: PendingToolCall) -> ToolResult:
    payload = _said(answered).get("payload")
    return ToolResult(payload if isinstance(payload, str) else orjson.dumps(payload).decode())


def _said(answered: PendingToolCall) -> dict[str, Any]:
    return cast(dict[str, Any], answered.answer) if isinstance(answered.answer, dict) else {}


def _reason(payload: Any) -> str:
    reason = cast(dict[str, Any], payload).get("reason") if isinstance(payload, dict) else payload
    return f": {reason}" if isinstance(reason, str) and reason else ""
