"""The page at `/inspector`, for operators; it shows what the operator API says, and has the playground's looks."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from callboard_http.pages import INDEX, asset

STATIC = Path(__file__).parent / "static"


async def page(request: web.Request) -> web.Response:
    """GET /inspector: the page; it asks for a token itself, if one is needed."""
    return asset(request, STATIC, INDEX)


async def file(request: web.Request) -> web.Response:
    """GET /inspector/{path}: what the page is made of."""
    return asset(request, STATIC, request.match_info["path"])


ROUTES = [web.get("/inspector", page), web.get("/inspector/{path:.+}", file)]
