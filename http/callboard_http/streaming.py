"""Which leg a request follows and from where, and the response that follows it.

In:  a run and a cursor.
Out: the SSE response, counted, bounded and ended with the process.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from uuid import UUID

from aiohttp import web
from redis.exceptions import RedisError

from callboard_http.chunk import Chunk
from callboard_http.deps import DEPS, SERVICES
from callboard_http.downgrade import downgraded, speaks_current
from callboard_http.event_log import LegKey
from callboard_http.reader import LegReader, Sources
from callboard_http.records import LegRecord, RunRecord
from callboard_http.sse import open_stream, stream
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.errors import Conflict


@dataclass(frozen=True, slots=True)
class Place:
    """A leg, and the event after which to read on."""

    key: LegKey
    after: EventId


def place_without_cursor(run: RunRecord, run_id: str) -> Place:
    """The start of the run's last leg; under a later leg's runId, of the last leg that has it."""
    legs = [leg for leg in run.legs if leg.client_run_id == run_id] if run_id != run.client_run_id else run.legs
    return Place(LegKey(run.session_id, run.id, legs[-1].leg if legs else 1), ORIGIN)


async def place_after(run: RunRecord, cursor: EventId, sources: Sources) -> Place | None:
    """The first leg with events after the cursor; None when the last leg ended there or before.

    Raises Conflict for a cursor that no event has had: beyond the log, and not in the tail.
    """
    open_leg = next((leg for leg in run.legs if not _ended_by(leg, cursor)), None)
    if open_leg is None:
        return None
    await _check_not_ahead(run.session_id, cursor, sources)
    return Place(LegKey(run.session_id, run.id, open_leg.leg), cursor)


async def follow(
    request: web.Request, place: Place, user_id: str, *, protocol: str | None, resumable: bool
) -> web.StreamResponse:
    """Stream the leg until its closing event, the client's leave, or the end of this process."""
    deps, settings = request.app[DEPS], request.app[DEPS].settings.http
    reader = LegReader(
        request.app[SERVICES].sources,
        place.key,
        after=place.after,
        heartbeat=settings.heartbeat,
        buffer=settings.reader_buffer_bytes,
    )
    with deps.streams.holding(reader, user_id, resumable=resumable):
        response = await open_stream(request)
        form = as_it_is if speaks_current(protocol) else downgraded
        await stream(response, reader.chunks(), form, deps.metrics)
    return response


def as_it_is(chunk: Chunk) -> Chunk:
    return chunk


def _ended_by(leg: LegRecord, cursor: EventId) -> bool:
    return leg.end is not None and leg.end <= cursor


async def _check_not_ahead(session_id: UUID, cursor: EventId, sources: Sources) -> None:
    log = await sources.positions.of(session_id)
    if log is None or cursor <= log:
        return
    if cursor.epoch == log.epoch and not await _tail_denies(session_id, cursor, sources):
        return
    raise Conflict(f"no event {cursor} has been sent; the log stands at {log}")


async def _tail_denies(session_id: UUID, cursor: EventId, sources: Sources) -> bool:
    """Whether the tail has this epoch, and ends before the cursor; a tail that is away denies nothing."""
    if sources.tail is None:
        return False
    with contextlib.suppress(RedisError, OSError, TimeoutError):
        entries = await sources.tail.read(session_id, EventId(cursor.epoch, 0), cursor.epoch)
        return entries is not None and entries.last_seq < cursor.seq
    return False
