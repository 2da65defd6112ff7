"""Cross-origin access, for the configured origins and nobody else."""

from __future__ import annotations

from aiohttp import web
from aiohttp.typedefs import Handler

from callboard_http.deps import DEPS

_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Last-Event-ID, traceparent, tracestate",
    "Access-Control-Max-Age": "600",
}


@web.middleware
async def preflight(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer a browser's question whether it may; routes never see it."""
    asked = request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers
    if asked and _allowed_origin(request):
        return web.Response(status=204, headers=_ALLOWED)
    return await handler(request)


async def name_origin(request: web.Request, response: web.StreamResponse) -> None:
    """Tell the browser that the page may read this response; every response says that it depends on the origin."""
    if not request.app[DEPS].settings.http.cors_origins:
        return
    response.headers.add("Vary", "Origin")
    if origin := _allowed_origin(request):
        response.headers["Access-Control-Allow-Origin"] = origin
        response.headers["Access-Control-Expose-Headers"] = "Location, Retry-After"


def _allowed_origin(request: web.Request) -> str | None:
    origin = request.headers.get("Origin")
    return origin if origin in request.app[DEPS].settings.http.cors_origins else None
