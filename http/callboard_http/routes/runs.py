"""Runs: start one, look at it, cancel it, answer what it waits for."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from aiohttp import web
from pydantic import Field

from callboard_http.accept import Acceptance, decision
from callboard_http.deps import DEPS, SERVICES
from callboard_http.records import LegRecord, RunRecord
from callboard_http.request_context import as_json, owned_run, path_id, subject
from callboard_http.run_request import MAX_ANSWERS, ResumeEntry, Wire, check_id, parse_as, parse_json, parse_run_request
from callboard_runtime.domain.commands import RunAnswer, ToolAnswer
from callboard_runtime.domain.run_input import digest
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import InvalidInput

RUNS = "/api/v1/agent/runs"


class _Resume(Wire):
    """`answers` names calls, `resume` names interrupts as AG-UI does; `run_id` is the next leg's."""

    run_id: str | None = Field(default=None, alias="run_id")
    answers: tuple[ToolAnswer, ...] = Field(default=(), max_length=MAX_ANSWERS)
    resume: tuple[ResumeEntry, ...] = Field(default=(), max_length=MAX_ANSWERS)


class _Cancel(Wire):
    reason: str | None = Field(default=None, max_length=500)


def acceptance(request: web.Request) -> Acceptance:
    """The way of this application's commands to the actors."""
    services = request.app[SERVICES]
    return Acceptance(services.commands, services.records, request.app[DEPS].settings)


def events_url(run_id: str) -> str:
    return f"{RUNS}/{quote(run_id, safe='')}/events"


async def start(request: web.Request) -> web.Response:
    """POST /runs: 202 once the run is durable; the same request again gets the same answer."""
    deps = request.app[DEPS]
    principal = deps.authenticator.authenticate(request.headers)
    asked = parse_run_request(await request.read(), max_messages=deps.settings.http.max_messages)
    await request.app[SERVICES].limits.admit_run(principal.user_id)
    answer = await acceptance(request).run(principal, asked)
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
    _, owner = await subject(request, "write", f"run {run_id}")
    run = await owned_run(request, owner, run_id)
    body = await request.read()
    reason = parse_as(_Cancel, parse_json(body)).reason if body else None
    return _accepted(await acceptance(request).cancel(owner, run.session_id, run_id, reason))


async def resume(request: web.Request) -> web.Response:
    """POST /runs/{run_id}/resume: approvals, tool results and interrupt answers; 202 once they are durable."""
    run_id = path_id(request, "run_id")
    principal, owner = await subject(request, "approve", f"run {run_id}")
    given = parse_as(_Resume, parse_json(await request.read()))
    answers = _answers(given, own=principal.user_id == owner)
    leg_run_id = check_id("run_id", given.run_id or run_id)
    run = await owned_run(request, owner, run_id)
    asked = digest({"resume": run.client_run_id, "by": principal.user_id, "body": given.model_dump(mode="json")})
    accept = acceptance(request)
    answer = await accept.resume(principal, run.session_id, leg_run_id, asked, answers, run_id=run.client_run_id)
    waiting = answer.status is RunStatus.AWAITING_INPUT  # answers are missing: no leg has the new runId yet
    return _accepted(answer.but(run_id=run.client_run_id) if waiting else answer)


def _answers(given: _Resume, *, own: bool) -> list[ToolAnswer]:
    """All answers of a body; raises InvalidInput for one that names no call, or, from an approver, no approval."""
    answers = [*given.answers, *map(decision, given.resume)]
    if not answers:
        raise InvalidInput("answers: name at least one answer, here or in `resume`")
    for index, answer in enumerate(answers):
        if answer.interrupt_id is None and (answer.tool_call_id is None or not own):
            one_of = "interrupt_id, or tool_call_id" if own else "interrupt_id"
            raise InvalidInput(f"answers.{index}: needs {one_of}")
    return answers


def _accepted(answer: RunAnswer) -> web.Response:
    location = events_url(answer.run_id)
    body = {
        "run_id": answer.run_id,
        "session_id": answer.thread_id,
        "task_id": answer.task_id,
        "status": answer.status,
        "leg": answer.leg,
        "events_url": location,
    }
    return as_json(body, 202, {"Location": location.removesuffix("/events")})


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
