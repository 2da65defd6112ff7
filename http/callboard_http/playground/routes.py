"""The playground's routes: its files for everybody, and what this server offers for those who are signed in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from aiohttp import web

from callboard_http.deps import DEPS
from callboard_http.pages import INDEX, asset
from callboard_http.playground.offer import offer
from callboard_http.request_context import as_json

STATIC = Path(__file__).parent / "static"


async def page(request: web.Request) -> web.Response:
    """GET /: the page."""
    return asset(request, STATIC, INDEX)


async def file(request: web.Request) -> web.Response:
    """GET /playground/{path}: what the page is made of."""
    return asset(request, STATIC, request.match_info["path"])


async def offered(request: web.Request) -> web.Response:
    """GET /playground/offer: the agents, and messages to try them with."""
    deps = request.app[DEPS]
    deps.authenticator.authenticate(request.headers)
    return as_json(await asyncio.to_thread(offer, deps.settings))


ROUTES = [web.get("/", page), web.get("/playground/offer", offered), web.get("/playground/{path:.+}", file)]
