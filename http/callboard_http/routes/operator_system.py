"""For operators: processes, partitions, queues, dead letters, and all of it at a glance."""

from __future__ import annotations

from aiohttp import web

from callboard_http.authorise import NOBODY
from callboard_http.deps import DEPS, SERVICES
from callboard_http.lookout import LOOKOUT
from callboard_http.routes.operator import OPERATOR, content, looked, operator, rows_wanted, tag, view
from callboard_runtime.errors import InvalidInput
from callboard_runtime.inspection.broker import get_dead_letter, list_dead_letters
from callboard_runtime.inspection.processes import list_partitions, list_processes
from callboard_runtime.inspection.status import get_status
from callboard_runtime.inspection.views import PartitionList, ProcessList, Status


async def status(request: web.Request) -> web.Response:
    """GET /status: services, processes, backlog, queues, and what is wrong; up to two seconds old."""
    await operator(request, "the system's status")

    async def take() -> Status:
        services, settings = request.app[SERVICES], request.app[DEPS].settings
        redis = services.limits.ping() if settings.redis_url else None
        silent_after = settings.actors.silent_after
        return await get_status(services.engine, settings.required_amqp_url(), redis, silent_after)

    return view(await request.app[LOOKOUT].glance(take))


async def processes(request: web.Request) -> web.Response:
    """GET /processes: who beats, and which attempts they run."""
    await operator(request, "processes")
    silent_after = request.app[DEPS].settings.actors.silent_after
    found = await looked(request, list_processes(request.app[SERVICES].engine, silent_after))
    return view(ProcessList(processes=found))


async def partitions(request: web.Request) -> web.Response:
    """GET /partitions: who took each of them last, with its epoch."""
    await operator(request, "partitions")
    silent_after = request.app[DEPS].settings.actors.silent_after
    found = await looked(request, list_partitions(request.app[SERVICES].engine, silent_after))
    return view(PartitionList(partitions=found))


async def dead_letters(request: web.Request) -> web.Response:
    """GET /dead-letters: the oldest ones, without their content; they stay where they are."""
    await operator(request, "dead letters")
    limit, url = rows_wanted(request, 100), request.app[DEPS].settings.required_amqp_url()
    async with request.app[LOOKOUT].errand:
        return view(await list_dead_letters(url, limit))


async def dead_letter(request: web.Request) -> web.Response:
    """GET /dead-letters/{id}: one of them whole, without tokens."""
    principal = await operator(request, "dead letters")
    letter_id = request.match_info["letter"]
    if not (letter_id.isascii() and letter_id.isalnum() and len(letter_id) <= 20):
        raise InvalidInput("letter: must be a dead letter's id, as the list has it")
    async with request.app[LOOKOUT].errand:
        detail = await get_dead_letter(request.app[DEPS].settings.required_amqp_url(), letter_id)
    unchanging = detail.letter.model_copy(update={"age_seconds": None})
    etag = tag(detail.model_copy(update={"letter": unchanging}))
    return await content(request, principal, detail, NOBODY, f"dead letter {letter_id}", etag)


ROUTES = [
    web.get(OPERATOR + "/status", status),
    web.get(OPERATOR + "/processes", processes),
    web.get(OPERATOR + "/partitions", partitions),
    web.get(OPERATOR + "/dead-letters", dead_letters),
    web.get(OPERATOR + "/dead-letters/{letter}", dead_letter),
]
