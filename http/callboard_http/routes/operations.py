"""For those who run it: is the process alive, is it ready, what has it done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from callboard_http.deps import DEPS, SERVICES
from callboard_http.request_context import as_json
from callboard_runtime.observe.health import answers
from callboard_runtime.observe.metrics import READY

PROBE_TIMEOUT = 2.0  # seconds


async def healthz(request: web.Request) -> web.Response:
    """GET /healthz: the process answers; nothing else is asked."""
    return as_json({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """GET /readyz: whether this front can do its work; Redis may be away, which only costs latency.

    `actors` is told and not counted: while none lives runs meet a 503, but streams and answers still come from here.
    """
    ready, checks = await _readiness(request)
    return as_json({"status": "ready" if ready else "unready", "checks": checks}, 200 if ready else 503)


async def _readiness(request: web.Request) -> tuple[bool, dict[str, bool]]:
    services, deps = request.app[SERVICES], request.app[DEPS]
    silent_after = deps.settings.actors.silent_after
    (database, actors), schema, (redis, _) = await asyncio.gather(
        _asked(services.records.actors_live(silent_after)),
        answers(services.records.schema_is_there),
        _asked(services.limits.ping()),
    )
    broker = services.commands.connected and services.sources.hub.connected
    ready = database and schema and broker and not deps.streams.draining
    checks = {
        "database": database,
        "schema": schema,
        "broker": broker,
        "redis": redis,
        "actors": actors,
        "draining": deps.streams.draining,
    }
    return ready, checks


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics: in Prometheus' text form."""
    deps = request.app[DEPS]
    READY.set((await _readiness(request))[0])
    return web.Response(body=deps.metrics.render(len(deps.streams)), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _asked(question: Awaitable[bool | None]) -> tuple[bool, bool]:
    """Whether there was an answer, and whether it was yes."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT):
            return True, bool(await question)
    except Exception:  # noqa: BLE001 - whatever it is, there is none
        return False, False


ROUTES = [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
