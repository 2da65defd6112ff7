"""Pages that come with the package: their files, read once, and the headers that keep other sites out of them."""

from __future__ import annotations

import hashlib
import mimetypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from aiohttp import web
from aiohttp.helpers import ETag

INDEX = "index.html"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".html": "text/html", ".svg": "image/svg+xml"}
# A page may load and call this server alone, runs no inline script, and cannot turn text into HTML.
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


@dataclass(frozen=True, slots=True)
class Asset:
    """A file as it is sent."""

    body: bytes
    content_type: str
    etag: str


def asset(request: web.Request, folder: Path, name: str) -> web.Response:
    """The file of this name below `folder`; raises HTTPNotFound for any other, wherever the name points."""
    found = assets(folder).get(name)
    if found is None:
        raise web.HTTPNotFound
    known = request.if_none_match
    if known and any(tag.value == found.etag for tag in known):
        return web.Response(status=304, headers={**_HEADERS, "ETag": f'"{found.etag}"'})
    response = web.Response(body=found.body, content_type=found.content_type, charset="utf-8", headers=_HEADERS)
    response.etag = ETag(found.etag)
    return response


@cache
def assets(folder: Path) -> dict[str, Asset]:
    """Every file by its path below `folder`."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _asset(path) for path in files}


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    kind = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return Asset(body, kind, hashlib.sha256(body).hexdigest()[:24])
