"""The native AG-UI endpoint: a RunAgentInput in, the run's events out, for an unmodified HttpAgent."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from callboard_http.auth import Principal
from callboard_http.chunk import Chunk
from callboard_http.deps import DEPS, SERVICES
from callboard_http.event_log import LegKey
from callboard_http.moments import Moments
from callboard_http.request_context import path_id, read_body
from callboard_http.routes.runs import acceptance
from callboard_http.run_request import RunRequest, ThreadRequest, parse_as, parse_json, parse_run_request
from callboard_http.streaming import Place, follow, show, tell
from callboard_runtime.agui.run_events import pause_outcome, run_error, run_finished, run_started
from callboard_runtime.domain.commands import RunAnswer
from callboard_runtime.domain.event_batch import ORIGIN
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.state_snapshot import OPEN_CALLS, RunStatus
from callboard_runtime.errors import ToolResultMismatch

AGUI = "/api/v1/agent/agui"


async def run(request: web.Request) -> web.StreamResponse:
    """POST /agui/{agent_id}: what is wrong with the input is said before the stream; leaving does not cancel."""
    principal = request.app[DEPS].authenticator.authenticate(request.headers)
    return await run_agent(request, principal, path_id(request, "agent_id"), await read_body(request))


async def connect(request: web.Request) -> web.StreamResponse:
    """POST /agui/{agent_id}/connect: what the thread came to, then what its run does; ends when nothing runs."""
    principal = request.app[DEPS].authenticator.authenticate(request.headers)
    path_id(request, "agent_id")
    return await connect_thread(request, principal, await read_body(request))


async def run_agent(request: web.Request, principal: Principal, agent_id: str, body: bytes) -> web.StreamResponse:
    """Accept the run, or the answers, that the body holds, and stream its leg from the start."""
    deps = request.app[DEPS]
    asked = parse_run_request(body, max_messages=deps.settings.http.max_messages, agent_id=agent_id)
    await request.app[SERVICES].limits.admit_run(principal.user_id)
    try:
        answer = await acceptance(request).run(principal, asked)
    except ToolResultMismatch as error:
        return await _aside(request, asked, run_error(error.message, error.code))
    deps.metrics.runs_accepted += 1
    if asked.answers and answer.status is RunStatus.AWAITING_INPUT:
        return await _still_open(request, principal, asked)
    place = Place(await _leg(request, principal, answer), ORIGIN, fresh=answer.status is RunStatus.QUEUED)
    return await follow(request, place, principal, protocol=asked.protocol_version, resumable=False)


async def connect_thread(request: web.Request, principal: Principal, body: bytes) -> web.StreamResponse:
    """Show the user's thread as it stands, and follow its active run to the end; nothing of an unknown thread."""
    asked = parse_as(ThreadRequest, parse_json(body))
    key = await Moments(request.app[SERVICES].engine).present_leg(principal.user_id, asked.thread_id)
    if key is None:
        return await tell(request, (), protocol=asked.protocol_version)
    return await show(request, key, principal, protocol=asked.protocol_version, resumable=False)


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
    return await _aside(request, asked, run_finished(asked.thread_id, asked.run_id, pause_outcome(pending), {}))


async def _aside(request: web.Request, asked: RunRequest, end: dict[str, Any]) -> web.StreamResponse:
    """A stream of this request alone, which the session's log knows nothing of."""
    chunk = Chunk.unlogged(run_started(asked.thread_id, asked.run_id), end, closing=True)
    return await tell(request, [chunk], protocol=asked.protocol_version)


ROUTES = [web.post(AGUI + "/{agent_id}", run), web.post(AGUI + "/{agent_id}/connect", connect)]
