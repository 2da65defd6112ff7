"""The front's one wiring module: routes, middlewares, and what they share, made at start and closed at the end."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections.abc import AsyncGenerator

from aiohttp import web

from callboard_http.accept import Acceptance
from callboard_http.auth import Authenticator
from callboard_http.cors import name_origin, preflight
from callboard_http.deps import DEPS, SERVICES, Deps, Services
from callboard_http.event_log import EventLog
from callboard_http.hub import EventHub
from callboard_http.ingress import Ingress
from callboard_http.ingress_requests import IngressRequests
from callboard_http.inspector import ROUTES as INSPECTOR
from callboard_http.limits import Limits
from callboard_http.lookout import LOOKOUT, Lookout
from callboard_http.open_streams import OpenStreams
from callboard_http.openings import Openings
from callboard_http.playground import ROUTES as PLAYGROUND
from callboard_http.problems import problems
from callboard_http.reader import Sources
from callboard_http.records import Records
from callboard_http.routes import ROUTES
from callboard_http.run_commands import RunCommands
from callboard_http.spans import traced
from callboard_http.tail_reads import TailReads
from callboard_http.tickets import Tickets
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.observe.metrics import watch_engine, watch_heartbeat
from callboard_runtime.persistence.database import close_engine, create_engine
from callboard_runtime.persistence.heartbeats import Heartbeat
from callboard_runtime.settings import Settings
from callboard_runtime.stream.tail import TailStore, connect_redis

BROKER_WAIT = 5.0  # seconds; a front without its broker starts all the same, and answers 503


def create_app(settings: Settings) -> web.Application:
    """The front as an aiohttp application; connects when it starts. Raises SettingsError for what cannot work."""
    settings.required_amqp_url()
    app = web.Application(client_max_size=settings.http.max_body_bytes, middlewares=[traced, problems, preflight])
    app[DEPS] = Deps(settings, Authenticator(settings), Tickets(settings), OpenStreams(settings.http))
    app[LOOKOUT] = Lookout()
    app.add_routes([*ROUTES, *PLAYGROUND, *INSPECTOR])
    app.cleanup_ctx.append(_services)
    app.on_response_prepare.append(name_origin)
    app.on_shutdown.append(_drain)
    return app


async def _services(app: web.Application) -> AsyncGenerator[None]:
    """Connect; a service that is away now is connected to when it is back."""
    settings = app[DEPS].settings
    name = f"http-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    engine = create_engine(settings, name="callboard-http")
    redis = connect_redis(settings.required_redis_url()) if settings.redis_url else None
    records, log = Records(engine), EventLog(engine)
    hub = EventHub(settings.required_amqp_url(), name)
    commands, _ = await asyncio.gather(
        CommandClient.connect(settings.required_amqp_url(), name, wait=BROKER_WAIT), hub.start(BROKER_WAIT)
    )
    tail = TailReads(TailStore(redis, settings.redis_prefix)) if redis else None
    limits = Limits(settings.http, records, redis, settings.redis_prefix)
    heartbeat = Heartbeat(settings.required_database_url(), name, "http", interval=settings.worker.heartbeat)
    watch_engine(engine)
    watch_heartbeat(heartbeat)
    heartbeat.start()
    app[SERVICES] = Services(engine, records, commands, Sources(log, tail, hub), Openings(engine), limits)
    ingress = await _start_ingress(app, name)
    yield
    await asyncio.to_thread(heartbeat.stop)
    if ingress is not None:
        await ingress.close()
    await hub.close()
    await commands.close()
    if redis is not None:
        await redis.aclose()
    await close_engine(engine)


async def _start_ingress(app: web.Application, name: str) -> Ingress | None:
    """Take requests from the broker, too, unless that is switched off."""
    deps, services = app[DEPS], app[SERVICES]
    if not deps.settings.ingress.enabled:
        return None
    acceptance = Acceptance(services.commands, services.records, deps.settings)
    commands = RunCommands(acceptance, services.records, services.limits, deps.settings)
    requests = IngressRequests(deps.authenticator, commands, services.limits, deps.settings)
    ingress = Ingress(deps.settings, f"{name}-ingress", requests)
    await ingress.start(BROKER_WAIT if services.commands.connected else 0)
    deps.metrics.ingress = ingress.counts
    return ingress


async def _drain(app: web.Application) -> None:
    await app[DEPS].streams.drain()
