"""The native AG-UI endpoint: a RunAgentInput in, the run's events out, for an unmodified HttpAgent."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

from aiohttp import web

from callboard_http.auth import Principal
from callboard_http.chunk import Chunk
from callboard_http.deps import DEPS, SERVICES
from callboard_http.downgrade import downgraded, speaks_current
from callboard_http.event_log import LegKey
from callboard_http.request_context import path_id
from callboard_http.routes.runs import acceptance
from callboard_http.run_request import RunRequest, parse_run_request
from callboard_http.sse import open_stream, stream
from callboard_http.streaming import Place, as_it_is, follow
from callboard_runtime.agui.run_events import run_error, run_finished, run_started
from callboard_runtime.domain.commands import RunAnswer
from callboard_runtime.domain.event_batch import ORIGIN
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.state_snapshot import OPEN_CALLS, PendingToolCall, RunStatus, ToolCallStatus
from callboard_runtime.errors import ToolResultMismatch

AGUI = "/api/v1/agent/agui"


async def run(request: web.Request) -> web.StreamResponse:
    """POST /agui/{agent_id}: what is wrong with the input is said before the stream; leaving does not cancel."""
    deps = request.app[DEPS]
    principal = deps.authenticator.authenticate(request.headers)
    agent_id = path_id(request, "agent_id")
    asked = parse_run_request(await request.read(), max_messages=deps.settings.http.max_messages, agent_id=agent_id)
    await request.app[SERVICES].limits.admit_run(principal.user_id)
    try:
        answer = await acceptance(request).run(principal, asked)
    except ToolResultMismatch as error:
        return await _tell(request, asked, [run_error(error.message, error.code)])
    deps.metrics.runs_accepted += 1
    if asked.answers and answer.status is RunStatus.AWAITING_INPUT:
        return await _still_open(request, principal, asked)
    place = Place(await _leg(request, principal, answer), ORIGIN)
    return await follow(request, place, principal.user_id, protocol=asked.protocol_version, resumable=False)


async def _leg(request: web.Request, principal: Principal, answer: RunAnswer) -> LegKey:
    """The leg that the actor's answer speaks of: it may belong to a run of another runId."""
    run_id = run_uuid(principal.user_id, answer.run_id)
    if answer.leg > 1 and (record := await request.app[SERVICES].records.run(principal.user_id, answer.run_id)):
        run_id = record.id
    return LegKey(session_uuid(principal.user_id, answer.thread_id), run_id, answer.leg)


async def _still_open(request: web.Request, principal: Principal, asked: RunRequest) -> web.StreamResponse:
    """The answers were kept, and others are missing: say again what is open."""
    state = await request.app[SERVICES].records.state(principal.user_id, asked.thread_id)
    pending = [call for call in state.pending_tool_calls if call.status in OPEN_CALLS] if state else []
    finished = run_finished(asked.thread_id, asked.run_id, _open_outcome(pending), {})
    return await _tell(request, asked, [finished])


async def _tell(request: web.Request, asked: RunRequest, events: list[dict[str, Any]]) -> web.StreamResponse:
    """A stream of this request alone, which the session's log knows nothing of."""
    started = run_started(asked.thread_id, asked.run_id)
    chunk = Chunk.unlogged(started, *events, closing=True)
    form = as_it_is if speaks_current(asked.protocol_version) else downgraded
    response = await open_stream(request)
    await stream(response, _only(chunk), form, request.app[DEPS].metrics)
    return response


async def _only(chunk: Chunk) -> AsyncGenerator[Chunk | None]:
    yield chunk


def _open_outcome(pending: list[PendingToolCall]) -> dict[str, Any]:
    """The outcome of a leg that waits for these calls."""
    decisions = [call for call in pending if call.status is not ToolCallStatus.PENDING_RESULT]
    if decisions:
        return {"type": "interrupt", "interrupts": [_interrupt(call) for call in decisions]}
    return {"type": "success", "pendingToolCallIds": [call.tool_call_id for call in pending]}


def _interrupt(call: PendingToolCall) -> dict[str, Any]:
    unknown = call.status is ToolCallStatus.OUTCOME_UNKNOWN
    optional = {
        "message": call.message,
        "responseSchema": call.response_schema,
        "expiresAt": call.expires_at.isoformat() if call.expires_at else None,
    }
    return {
        "id": call.interrupt_id or call.tool_call_id,
        "reason": "callboard:tool_outcome_unknown" if unknown else "callboard:tool_approval",
        "toolCallId": call.tool_call_id,
        "metadata": {"toolName": call.tool_name, "args": call.args},
        **{name: value for name, value in optional.items() if value is not None},
    }


ROUTES = [web.post(AGUI + "/{agent_id}", run)]
