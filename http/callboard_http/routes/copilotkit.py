"""The wire of CopilotKit's runtime: its front ends talk to this server directly.

Each operation has a path of its own; `POST /copilotkit` takes all of them in one envelope, `{method, params, body}`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

import orjson
from aiohttp import web

from callboard_http.auth import Principal
from callboard_http.deps import DEPS, SERVICES
from callboard_http.moments import Moments
from callboard_http.request_context import as_json, page_size, path_id, read_body
from callboard_http.routes.agui import connect_thread, run_agent
from callboard_http.routes.runs import acceptance
from callboard_http.run_request import Json, Wire, check_id, parse_as, parse_json
from callboard_http.session_records import Row, SessionRecords
from callboard_runtime.config.specs import WorkflowSpec
from callboard_runtime.config.static import load_static
from callboard_runtime.domain.ids import ClientId
from callboard_runtime.domain.state_snapshot import ENDED
from callboard_runtime.errors import InvalidInput, NotFound

ROOT = "/copilotkit"
_THREADS = {"list": True, "inspect": True, "mutations": False, "realtimeMetadata": False}


class StopRequest(Wire):
    """Which run to stop; without one, the thread's active run."""

    run_id: ClientId | None = None


class EnvelopeParams(Wire):
    agent_id: str = ""
    thread_id: str = ""
    path: str = ""
    http_method: str = "GET"


class Envelope(Wire):
    """Any operation, for a client that knows one URL only."""

    method: Literal["info", "agent/run", "agent/connect", "agent/stop", "resource/request"]
    params: EnvelopeParams = EnvelopeParams()
    body: Json | None = None


async def info(request: web.Request) -> web.Response:
    """GET /info: the agents, and which of the optional operations there are."""
    _user(request)
    return _info(request)


async def run(request: web.Request) -> web.StreamResponse:
    """POST /agent/{id}/run: as the native endpoint."""
    return await _run(request, _user(request), path_id(request, "agent_id"), await read_body(request))


async def connect(request: web.Request) -> web.StreamResponse:
    """POST /agent/{id}/connect: the thread as it stands, then its active run; ends when nothing runs."""
    return await _connect(request, _user(request), path_id(request, "agent_id"), await read_body(request))


async def stop(request: web.Request) -> web.Response:
    """POST /agent/{id}/stop/{thread}: cancels the run that `runId` names, else the thread's active one."""
    agent_id, thread_id = path_id(request, "agent_id"), path_id(request, "thread_id")
    body = await read_body(request)
    return await _stop(request, _user(request), agent_id, thread_id, parse_json(body) if body else {})


async def threads(request: web.Request) -> web.Response:
    """GET /threads: the user's, the one that changed last first."""
    return await _threads(request, _user(request), request.query)


async def thread_messages(request: web.Request) -> web.Response:
    """GET /threads/{thread}/messages: all that were not withdrawn."""
    return await _messages(request, _user(request), path_id(request, "thread_id"))


async def single(request: web.Request) -> web.StreamResponse:
    """POST /copilotkit: any of these operations, for clients that know one URL only."""
    principal = _user(request)
    asked = parse_as(Envelope, parse_json(await read_body(request)))
    params, body = asked.params, orjson.dumps(asked.body or {})
    match asked.method:
        case "info":
            return _info(request)
        case "agent/run":
            return await _run(request, principal, check_id("params.agentId", params.agent_id), body)
        case "agent/connect":
            return await _connect(request, principal, check_id("params.agentId", params.agent_id), body)
        case "agent/stop":
            agent_id = check_id("params.agentId", params.agent_id)
            thread_id = check_id("params.threadId", params.thread_id)
            return await _stop(request, principal, agent_id, thread_id, asked.body or {})
        case "resource/request":
            return await _resource(request, principal, params)


def _user(request: web.Request) -> Principal:
    return request.app[DEPS].authenticator.authenticate(request.headers)


def _workflows(request: web.Request) -> Mapping[str, WorkflowSpec]:
    return load_static(request.app[DEPS].settings.config.dir).workflows


def _info(request: web.Request) -> web.Response:
    agents = {name: _described(name, workflow) for name, workflow in _workflows(request).items()}
    about = {"version": version("callboard"), "mode": "sse", "agents": agents, "threadEndpoints": _THREADS}
    single_route = {"resourceOperations": True, "threadEndpoints": _THREADS}
    off = {"audioFileTranscriptionEnabled": False, "a2uiEnabled": False, "suggestions": False}
    return as_json({**about, "singleRoute": single_route, **off})


def _described(name: str, workflow: WorkflowSpec) -> Json:
    capabilities = {
        "transport": {"streaming": True},
        "tools": {"supported": True, "clientProvided": True},
        "humanInTheLoop": {"supported": True, "approvals": True, "interrupts": True},
    }
    return {
        "name": name,
        "className": "CallboardAgent",
        "description": workflow.description,
        "capabilities": capabilities,
    }


def _unknown_agent(request: web.Request, agent_id: str) -> web.Response | None:
    return None if agent_id in _workflows(request) else as_json({"error": "Agent not found"}, 404)


async def _run(request: web.Request, principal: Principal, agent_id: str, body: bytes) -> web.StreamResponse:
    return _unknown_agent(request, agent_id) or await run_agent(request, principal, agent_id, body)


async def _connect(request: web.Request, principal: Principal, agent_id: str, body: bytes) -> web.StreamResponse:
    return _unknown_agent(request, agent_id) or await connect_thread(request, principal, body)


async def _stop(request: web.Request, principal: Principal, agent_id: str, thread_id: str, given: Any) -> web.Response:
    if unknown := _unknown_agent(request, agent_id):
        return unknown
    run_id = parse_as(StopRequest, given).run_id or await _active_run(request, principal, thread_id)
    record = await request.app[SERVICES].records.run(principal.user_id, run_id) if run_id else None
    if record is None or record.deleted or record.thread_id != thread_id or record.status in ENDED:
        return as_json({"stopped": False, "message": "no such run is active in this thread"})
    await acceptance(request).cancel(principal.user_id, record.session_id, record.client_run_id, "stopped by the user")
    error = {"type": "RUN_ERROR", "message": "The run was stopped.", "code": "STOPPED"}
    return as_json({"stopped": True, "interrupt": error})


async def _active_run(request: web.Request, principal: Principal, thread_id: str) -> str | None:
    state = await request.app[SERVICES].records.state(principal.user_id, thread_id)
    return state.active.client_run_id if state and state.active else None


async def _threads(request: web.Request, principal: Principal, query: Mapping[str, str]) -> web.Response:
    records = SessionRecords(request.app[SERVICES].engine)
    page = await records.sessions(principal.user_id, query.get("cursor"), page_size(query))
    shown = [_thread(row, principal, query.get("agentId", "default")) for row in page.rows]
    return as_json({"threads": shown, "nextCursor": page.next})


def _thread(row: Row, principal: Principal, agent_id: str) -> Json:
    """A thread belongs to no agent here, so that each agent's list shows it."""
    return {
        "id": row["thread_id"],
        "name": row["title"],
        "agentId": agent_id,
        "organizationId": "",
        "createdById": principal.user_id,
        "archived": False,
        "createdAt": row["created_at"],
        "updatedAt": row["updated_at"],
        "lastRunAt": row["last_message_at"] or row["updated_at"],
    }


async def _messages(request: web.Request, principal: Principal, thread_id: str) -> web.Response:
    shown = await Moments(request.app[SERVICES].engine).messages(principal.user_id, thread_id)
    if shown is None:
        raise NotFound(f"there is no thread {thread_id}")
    return as_json({"messages": shown})


async def _resource(request: web.Request, principal: Principal, params: EnvelopeParams) -> web.StreamResponse:
    """What a client of the one URL asks of `/threads`."""
    try:
        target = urlsplit(params.path)
    except ValueError:
        raise InvalidInput("params.path: is not a path such as /threads?limit=20") from None
    match params.http_method, target.path.strip("/").split("/"):
        case "GET", ["threads"]:
            return await _threads(request, principal, dict(parse_qsl(target.query)))
        case "GET", ["threads", thread_id, "messages"]:
            return await _messages(request, principal, check_id("params.path", thread_id))
        case method, _:
            raise NotFound(f"there is no {method} {target.path}")


ROUTES = [
    web.post(ROOT, single),
    web.post(ROOT + "/", single),
    web.get(ROOT + "/info", info),
    web.post(ROOT + "/agent/{agent_id}/run", run),
    web.post(ROOT + "/agent/{agent_id}/connect", connect),
    web.post(ROOT + "/agent/{agent_id}/stop/{thread_id}", stop),
    web.get(ROOT + "/threads", threads),
    web.get(ROOT + "/threads/{thread_id}/messages", thread_messages),
]
