"""What the handlers of one process share."""

from __future__ import annotations

from dataclasses import dataclass, field

from aiohttp import web
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_http.auth import Authenticator
from callboard_http.limits import Limits
from callboard_http.metrics import Metrics
from callboard_http.open_streams import OpenStreams
from callboard_http.openings import Openings
from callboard_http.reader import Sources
from callboard_http.records import Records
from callboard_http.tickets import Tickets
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.settings import Settings


@dataclass(frozen=True, slots=True)
class Services:
    """What needs the network; there once the application has started."""

    engine: AsyncEngine
    records: Records
    commands: CommandClient
    sources: Sources
    openings: Openings
    limits: Limits


@dataclass(slots=True)
class Deps:
    """The process's own state, and its services."""

    settings: Settings
    authenticator: Authenticator
    tickets: Tickets
    streams: OpenStreams
    metrics: Metrics = field(default_factory=Metrics)


DEPS: web.AppKey[Deps] = web.AppKey("deps", Deps)
SERVICES: web.AppKey[Services] = web.AppKey("services", Services)
