"""Runs: start one, look at it, cancel it, answer what it waits for."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from callboard_http.accept import Acceptance
from callboard_http.auth import Principal
from callboard_http.deps import DEPS, SERVICES
from callboard_http.records import LegRecord, RunRecord
from callboard_http.request_context import as_json, check_user, owned_run, path_id, read_body, subject
from callboard_http.run_commands import RUNS, Cancel, Resume, RunCommands, accepted, events_url
from callboard_http.run_request import parse_as, parse_json, parse_run_request
from callboard_runtime.domain.commands import RunAnswer


def acceptance(request: web.Request) -> Acceptance:
    """The way of this application's commands to the actors."""
    services = request.app[SERVICES]
    return Acceptance(services.commands, services.records, request.app[DEPS].settings)


def run_commands(request: web.Request) -> RunCommands:
    """What this application does for those who ask something of runs."""
    services, settings = request.app[SERVICES], request.app[DEPS].settings
    return RunCommands(acceptance(request), services.records, services.limits, settings)


async def start(request: web.Request) -> web.Response:
    """POST /runs: 202 once the run is durable; the same request again gets the same answer."""
    deps = request.app[DEPS]
    principal = deps.authenticator.authenticate(request.headers)
    asked = parse_run_request(await read_body(request), max_messages=deps.settings.http.max_messages)
    await request.app[SERVICES].limits.count_run(principal.user_id)
    answer = await run_commands(request).start(principal, asked)
    deps.metrics.runs_accepted += 1
    return _accepted(answer)


async def show(request: web.Request) -> web.Response:
    """GET /runs/{run_id}: where it stands and what it cost."""
    run_id = path_id(request, "run_id")
    _, owner = await subject(request, "read", f"run {run_id}")
    return as_json(_view(await owned_run(request, owner, run_id)))


async def cancel(request: web.Request) -> web.Response:
    """POST /runs/{run_id}/cancel: 202 once no further step will be granted."""
    run_id = path_id(request, "run_id")
    principal = request.app[DEPS].authenticator.authenticate(request.headers)
    body = await read_body(request)
    given = parse_as(Cancel, parse_json(body)) if body else Cancel()
    return _accepted(await run_commands(request).cancel(principal, _owner(request, principal), run_id, given))


async def resume(request: web.Request) -> web.Response:
    """POST /runs/{run_id}/resume: approvals, tool results and interrupt answers; 202 once they are durable."""
    run_id = path_id(request, "run_id")
    principal = request.app[DEPS].authenticator.authenticate(request.headers)
    given = parse_as(Resume, parse_json(await read_body(request)))
    return _accepted(await run_commands(request).resume(principal, _owner(request, principal), run_id, given))


def _owner(request: web.Request, principal: Principal) -> str:
    return check_user(request.query.get("user", principal.user_id))


def _accepted(answer: RunAnswer) -> web.Response:
    body = accepted(answer)
    return as_json(body, 202, {"Location": body["events_url"].removesuffix("/events")})


def _view(run: RunRecord) -> dict[str, Any]:
    error = {"code": run.error_code, "message": run.error_message} if run.error_code else None
    return {
        "run_id": run.client_run_id,
        "session_id": run.thread_id,
        "agent_id": run.agent_id,
        "status": run.status,
        "error": error,
        "legs": [_leg_view(leg) for leg in run.legs],
        "usage": usage_view(run),
        "events_url": events_url(run.client_run_id),
        "created_at": run.created_at,
        "started_at": run.started_at,
        "ended_at": run.ended_at,
    }


def usage_view(run: RunRecord) -> dict[str, Any]:
    """Tokens and money; `cost` is decimal text in US dollars, the sum of the known prices."""
    return {
        "calls": run.calls,
        "input_tokens": run.input_tokens,
        "output_tokens": run.output_tokens,
        "total_tokens": run.total_tokens,
        "cost": money(run.cost),
        "unpriced_calls": run.unpriced_calls,
    }


def money(value: Any) -> str | None:
    """Decimal text without an exponent; None stays None: an unknown price is not zero."""
    return None if value is None else f"{value.normalize():f}"


def _leg_view(leg: LegRecord) -> dict[str, Any]:
    return {
        "leg": leg.leg,
        "run_id": leg.client_run_id,
        "last_event_id": str(leg.end) if leg.end else None,
        "created_at": leg.created_at,
        "ended_at": leg.ended_at,
    }


ROUTES = [
    web.post(RUNS, start),
    web.get(RUNS + "/{run_id}", show),
    web.post(RUNS + "/{run_id}/cancel", cancel),
    web.post(RUNS + "/{run_id}/resume", resume),
]
