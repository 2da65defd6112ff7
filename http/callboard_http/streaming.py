"""Which leg, or session, a request follows and from where, and the response that follows it.

In:  a run and a cursor.
Out: the SSE response, counted, bounded and ended with the process.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass
from math import inf

from aiohttp import web

from callboard_http.auth import LEEWAY, Principal
from callboard_http.chunk import Chunk
from callboard_http.deps import DEPS, SERVICES
from callboard_http.downgrade import downgraded, speaks_current
from callboard_http.event_log import LegKey, SessionKey
from callboard_http.moments import Moments
from callboard_http.openings import Opening, OpenLeg, Standing
from callboard_http.prelude import Prelude, ending, prelude
from callboard_http.reader import LegReader, SessionReader, Sources
from callboard_http.spans import following
from callboard_http.sse import Form, open_stream, stream
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import Conflict, Gone, NotFound

LONGEST = 24 * 3600  # seconds of one connection


@dataclass(frozen=True, slots=True)
class Place:
    """A leg, or a session, the event after which to read on, and what to say before that.

    `fresh`: the leg had no events when its run was accepted, which was just now.
    """

    key: LegKey | SessionKey
    after: EventId
    prelude: Prelude | None = None
    fresh: bool = False


def leg_key(opening: Opening, leg: OpenLeg | None) -> LegKey:
    return LegKey(opening.standing.session_id, opening.id, leg.leg if leg else 1)


def place_at_start(opening: Opening, leg: OpenLeg | None) -> Place:
    """The start of a leg. Raises Gone when it was pruned."""
    if leg is not None and leg.first_epoch is not None:
        _check_kept(opening.standing, EventId(leg.first_epoch, 0))
    return Place(leg_key(opening, leg), ORIGIN)


def place_after(opening: Opening, cursor: EventId, sources: Sources) -> Place | None:
    """The first leg with events after the cursor; None when the last leg ended there or before.

    Raises Conflict for a cursor of an epoch that nobody was given yet; Gone for one behind which events were pruned, or
    which is beyond what was committed of a former epoch and unknown here.
    """
    open_leg = next((leg for leg in opening.legs if not _ended_by(leg, cursor)), None)
    if open_leg is None:
        return None
    _check_cursor(opening.standing, cursor, sources)
    return Place(leg_key(opening, open_leg), cursor)


def place_in_session(standing: Standing, cursor: EventId, sources: Sources) -> Place:
    """All that follows the cursor in a session. Raises as `place_after` does."""
    _check_cursor(standing, cursor, sources)
    return Place(SessionKey(standing.session_id), cursor)


async def follow(
    request: web.Request, place: Place, principal: Principal, *, protocol: str | None, resumable: bool
) -> web.StreamResponse:
    """Stream the leg until its closing event, the client's leave, or the end of this process.

    A resumable stream also ends with the principal's token: who comes back shows a new one.
    """
    deps, settings = request.app[DEPS], request.app[DEPS].settings.http
    reader = (LegReader if isinstance(place.key, LegKey) else SessionReader)(
        request.app[SERVICES].sources,
        place.key,
        after=place.after,
        heartbeat=settings.heartbeat,
        buffer=settings.reader_buffer_bytes,
        prelude=place.prelude,
        lasting=_lasting(principal) if resumable else inf,
        fresh=place.fresh,
    )
    deps.streams.add(reader, principal.user_id, resumable=resumable)
    try:
        with following(reader):
            response = await open_stream(request)
            await stream(response, reader.chunks(), _form(protocol), deps.metrics)
    finally:
        deps.streams.remove(reader, principal.user_id)
    return response


def _lasting(principal: Principal) -> float:
    """Seconds until the principal's token has expired, or a day if that is earlier."""
    return min((principal.expires_at - utcnow()).total_seconds() + LEEWAY, LONGEST)


async def show(
    request: web.Request, key: LegKey, principal: Principal, *, protocol: str | None, resumable: bool
) -> web.StreamResponse:
    """The leg as it stands, told in a prelude, and what follows of it. Raises NotFound, Gone."""
    with request.app[DEPS].streams.telling(principal.user_id):
        told = await _told(request, key)
        if not isinstance(told, Place):
            return await tell(request, told, protocol=protocol)
    return await follow(request, told, principal, protocol=protocol, resumable=resumable)


async def _told(request: web.Request, key: LegKey) -> Place | list[Chunk]:
    """The prelude and from where to read on; of a leg that ended, all there is to tell."""
    services = request.app[SERVICES]
    moment = await Moments(services.engine).of_leg(key)
    if moment is None:
        raise NotFound("there is no such run any more")
    told = await prelude(moment, services.sources.tail)
    if moment.end is not None:
        return [*told.chunks, ending(moment, moment.end)]
    return Place(key, told.position, told)


async def tell(request: web.Request, chunks: Iterable[Chunk], *, protocol: str | None) -> web.StreamResponse:
    """A stream of what is known already, which ends with it; of nothing, an empty one."""
    response = await open_stream(request)
    if known := list(chunks):
        await stream(response, _each(known), _form(protocol), request.app[DEPS].metrics)
    return response


async def _each(chunks: list[Chunk]) -> AsyncGenerator[Chunk | None]:
    for chunk in chunks:
        yield chunk


def _form(protocol: str | None) -> Form:
    return _as_it_is if speaks_current(protocol) else downgraded


def _as_it_is(chunk: Chunk) -> Chunk:
    return chunk


def _ended_by(leg: OpenLeg, cursor: EventId) -> bool:
    return leg.end is not None and leg.end <= cursor


def _check_cursor(standing: Standing, cursor: EventId, sources: Sources) -> None:
    """Of the present epoch any cursor is believed: while Redis is away, what is sent is on the lanes alone at first."""
    _check_kept(standing, cursor)
    committed = EventId(cursor.epoch, standing.committed)
    if cursor <= committed or sources.memory.between(standing.session_id, committed, cursor) is not None:
        return
    if cursor.epoch < standing.log.epoch:
        raise Gone(f"event {cursor} was withdrawn; come without a cursor for a snapshot")
    if cursor.epoch > standing.log.epoch:
        raise Conflict(f"no event {cursor} has been sent; the log stands at {standing.log}")


def _check_kept(standing: Standing, cursor: EventId) -> None:
    oldest = standing.oldest
    if oldest is not None and cursor < EventId(oldest.epoch, oldest.seq - 1):
        raise Gone(f"events after {cursor} are past their retention; come without a cursor for a snapshot")
