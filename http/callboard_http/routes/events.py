"""A run's events: the stream, and the ticket that lets an EventSource open it."""

from __future__ import annotations

from aiohttp import web

from callboard_http.auth import Principal
from callboard_http.deps import DEPS, SERVICES
from callboard_http.request_context import as_json, cursor, may, owned_run, path_id, subject
from callboard_http.run_commands import RUNS, events_url
from callboard_http.streaming import follow, place_after, place_without_cursor
from callboard_runtime.domain.event_batch import EventId

CURRENT = "1.0"  # what a reader of this API speaks unless it says otherwise


async def events(request: web.Request) -> web.StreamResponse:
    """GET /runs/{run_id}/events: one leg, to its closing event; 204 when nothing follows the cursor."""
    run_id = path_id(request, "run_id")
    principal, owner = await _reader_of(request, run_id)
    after = _cursor(request)
    run = await owned_run(request, owner, run_id)
    sources = request.app[SERVICES].sources
    place = await place_after(run, after, sources) if after else place_without_cursor(run, run_id)
    if place is None:
        return web.Response(status=204)
    protocol = request.query.get("protocol", CURRENT)
    return await follow(request, place, principal.user_id, protocol=protocol, resumable=True)


async def ticket(request: web.Request) -> web.Response:
    """POST /runs/{run_id}/ticket: a URL that opens this run's stream until the token expires."""
    run_id = path_id(request, "run_id")
    principal, owner = await subject(request, "read", f"run {run_id}")
    await owned_run(request, owner, run_id)
    issued = request.app[DEPS].tickets.issue(principal, owner, run_id)
    url = f"{events_url(run_id)}?ticket={issued}"
    return as_json({"ticket": issued, "expires_at": principal.expires_at, "events_url": url}, 201)


async def _reader_of(request: web.Request, run_id: str) -> tuple[Principal, str]:
    given = request.query.get("ticket")
    if given is None:
        return await subject(request, "read", f"run {run_id}")
    principal, owner = request.app[DEPS].tickets.principal(given, request.query.get("user"), run_id)
    await may(request, principal, "read", owner, f"run {run_id}")
    return principal, owner


def _cursor(request: web.Request) -> EventId | None:
    """`Last-Event-ID`, which a reconnecting EventSource sends and which is newer than its URL, else `?after=`."""
    given = request.headers.get("Last-Event-ID") or request.query.get("after")
    return cursor(given) if given else None


ROUTES = [web.get(RUNS + "/{run_id}/events", events), web.post(RUNS + "/{run_id}/ticket", ticket)]
