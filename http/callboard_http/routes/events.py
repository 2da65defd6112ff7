"""A run's events: the stream, and the ticket that lets an EventSource open it."""

from __future__ import annotations

from uuid import UUID

from aiohttp import web

from callboard_http.auth import Principal
from callboard_http.deps import DEPS, SERVICES
from callboard_http.event_log import LegKey
from callboard_http.request_context import as_json, cursor, may, owned_run, path_id, subject
from callboard_http.run_commands import RUNS, events_url
from callboard_http.streaming import Place, follow, leg_key, place_after, place_at_start, place_in_session, show
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.errors import InvalidInput

CURRENT = "1.0"  # what a reader of this API speaks unless it says otherwise


async def events(request: web.Request) -> web.StreamResponse:
    """GET /runs/{run_id}/events: one leg, to its closing event; 204 when nothing follows the cursor.

    Without a cursor it begins with snapshots, with `?from=start` at the leg's first event.
    """
    run_id = path_id(request, "run_id")
    principal, owner = await _reader_of(request, run_id)
    after, whole = event_cursor(request), _whole(request)
    place = await _place(request, owner, run_id, after, whole=whole)
    if place is None:
        return web.Response(status=204)
    protocol = request.query.get("protocol", CURRENT)
    if isinstance(place, LegKey):
        return await show(request, place, principal, protocol=protocol, resumable=True)
    return await follow(request, place, principal, protocol=protocol, resumable=True)


async def session_events(request: web.Request, session_id: UUID, principal: Principal) -> web.StreamResponse:
    """All runs of a session, in the order of its log, from the cursor, or the first event, until the reader leaves."""
    services, after = request.app[SERVICES], event_cursor(request) or ORIGIN
    place = place_in_session(await services.openings.session(session_id, after.epoch), after, services.sources)
    protocol = request.query.get("protocol", CURRENT)
    return await follow(request, place, principal, protocol=protocol, resumable=True)


async def _place(
    request: web.Request, owner: str, run_id: str, after: EventId | None, *, whole: bool
) -> Place | LegKey | None:
    """Where to read on; a leg that is to be shown as it stands; None when nothing follows the cursor."""
    services = request.app[SERVICES]
    opening = await services.openings.of(owner, run_id, after.epoch if after else 0)
    if after:
        return place_after(opening, after, services.sources)
    leg = opening.named(run_id)
    return leg_key(opening, leg) if leg and leg.first_epoch and not whole else place_at_start(opening, leg)


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


def _whole(request: web.Request) -> bool:
    """Whether `?from=start` asks for every event of the leg."""
    given = request.query.get("from")
    if given not in (None, "start"):
        raise InvalidInput("from: only `start` is known; use `after` for a position")
    return given is not None


def event_cursor(request: web.Request) -> EventId | None:
    """`Last-Event-ID`, which a reconnecting EventSource sends and which is newer than its URL, else `?after=`."""
    given = request.headers.get("Last-Event-ID") or request.query.get("after")
    return cursor(given) if given else None


ROUTES = [web.get(RUNS + "/{run_id}/events", events), web.post(RUNS + "/{run_id}/ticket", ticket)]
