"""The reference, for everybody: the documents for programs, and the same as pages for people."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import web

from callboard_http.openapi.page import STYLE, asyncapi_page, openapi_page

_FOLDER = Path(__file__).parents[1] / "openapi"
# Nothing but the style sheet is loaded, and nothing runs.
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


async def openapi(request: web.Request) -> web.Response:
    """GET /openapi.json: the HTTP API."""
    return _response(_openapi(), "application/json")


async def asyncapi(request: web.Request) -> web.Response:
    """GET /asyncapi.yaml: what integrations may send and hear over the broker."""
    return _response(_file("asyncapi.yaml"), "application/yaml")


async def openapi_docs(request: web.Request) -> web.Response:
    return _response(_openapi_page(), "text/html")


async def asyncapi_docs(request: web.Request) -> web.Response:
    return _response(_asyncapi_page(), "text/html")


async def style(request: web.Request) -> web.Response:
    return _response(_file("reference.css"), "text/css")


def _response(body: bytes, kind: str) -> web.Response:
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)


@cache
def _file(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()


def _document() -> dict[str, Any]:
    from callboard_http.openapi.document import document  # late: it describes the routes, of which these are some

    return document()


@cache
def _openapi() -> bytes:
    return orjson.dumps(_document(), option=orjson.OPT_INDENT_2)


@cache
def _openapi_page() -> bytes:
    return openapi_page(_document()).encode()


@cache
def _asyncapi_page() -> bytes:
    return asyncapi_page(yaml.safe_load(_file("asyncapi.yaml"))).encode()


ROUTES = [
    web.get("/openapi.json", openapi),
    web.get("/asyncapi.yaml", asyncapi),
    web.get("/docs", openapi_docs),
    web.get("/docs/asyncapi", asyncapi_docs),
    web.get(STYLE, style),
]
