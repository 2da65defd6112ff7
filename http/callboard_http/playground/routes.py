"""The playground's routes: its files for everybody, and what this server offers for those who are signed in."""

from __future__ import annotations

import asyncio

from aiohttp import web
from aiohttp.helpers import ETag

from callboard_http.deps import DEPS
from callboard_http.playground.files import INDEX, Asset, assets
from callboard_http.playground.offer import offer
from callboard_http.request_context import as_json

# The page may load and call this server alone, runs no inline script, and cannot turn text into HTML.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again each time, answered with 304: a page never mixes two versions
}


async def page(request: web.Request) -> web.Response:
    """GET /: the page."""
    return _response(request, assets()[INDEX])


async def file(request: web.Request) -> web.Response:
    """GET /playground/{path}: what the page is made of."""
    asset = assets().get(request.match_info["path"])
    if asset is None:
        raise web.HTTPNotFound
    return _response(request, asset)


async def offered(request: web.Request) -> web.Response:
    """GET /playground/offer: the agents, and messages to try them with."""
    deps = request.app[DEPS]
    deps.authenticator.authenticate(request.headers)
    return as_json(await asyncio.to_thread(offer, deps.settings))


def _response(request: web.Request, asset: Asset) -> web.Response:
    known = request.if_none_match
    if known and any(tag.value == asset.etag for tag in known):
        return web.Response(status=304, headers={**_HEADERS, "ETag": f'"{asset.etag}"'})
    response = web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=_HEADERS)
    response.etag = ETag(asset.etag)
    return response


ROUTES = [web.get("/", page), web.get("/playground/offer", offered), web.get("/playground/{path:.+}", file)]
