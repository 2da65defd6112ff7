"""Sessions and what is in them, a page at a time."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from aiohttp import web

from callboard_http.chunk import Chunk
from callboard_http.deps import DEPS, SERVICES
from callboard_http.request_context import as_json, cursor, page_size, path_id, subject
from callboard_http.routes.events import session_events
from callboard_http.routes.runs import acceptance, money
from callboard_http.session_records import Row, SessionRecords
from callboard_runtime.domain.commands import DeleteSession
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import Gone, InvalidInput, NotFound

SESSIONS = "/api/v1/agent/sessions"


async def index(request: web.Request) -> web.Response:
    """GET /sessions: the one that changed last first."""
    _, owner = await subject(request, "read", "sessions")
    page = await _records(request).sessions(owner, request.query.get("after"), page_size(request.query))
    return as_json({"sessions": [_view(row) for row in page.rows], "next": page.next})


async def show(request: web.Request) -> web.Response:
    return as_json(_view(await _session(request)))


async def messages(request: web.Request) -> web.Response:
    """GET /sessions/{id}/messages: in order; `after` is a seq."""
    session = await _session(request)
    page = await _records(request).messages(session["id"], _seq(request), page_size(request.query))
    return as_json({"messages": [_message_view(row) for row in page.rows], "next": page.next})


async def events(request: web.Request) -> web.StreamResponse:
    """GET /sessions/{id}/events: committed events of all runs; `after` is an event id.

    Asked for `text/event-stream` it goes on with what happens, until the reader leaves.
    """
    session = await _session(request)
    if "text/event-stream" in request.headers.get("Accept", ""):
        principal = request.app[DEPS].authenticator.authenticate(request.headers)
        return await session_events(request, session["id"], principal)
    after = request.query.get("after")
    chunks = await _records(request).events(session["id"], cursor(after) if after else ORIGIN)
    body = _events_body(chunks, page_size(request.query, 500), EventId(session["log_epoch"], session["log_seq"]))
    return web.Response(body=body, content_type="application/json")


async def usage(request: web.Request) -> web.Response:
    """GET /sessions/{id}/usage: the totals, and the provider requests that they are the sum of."""
    session = await _session(request)
    page = await _records(request).calls(session["id"], request.query.get("after"), page_size(request.query))
    return as_json({"totals": _totals(session), "calls": [_call_view(row) for row in page.rows], "next": page.next})


async def delete(request: web.Request) -> web.Response:
    """DELETE /sessions/{id}: ends its runs and deletes its content; the id stays taken."""
    thread_id = path_id(request, "session_id")
    _, owner = await subject(request, "write", f"session {thread_id}")
    session = await _records(request).session(owner, thread_id)
    if session is None:
        raise NotFound(f"there is no session {thread_id}")
    not_after = utcnow() + timedelta(seconds=request.app[DEPS].settings.http.accept_timeout)
    await acceptance(request).send(DeleteSession(session_id=session["id"], user_id=owner, not_after=not_after))
    return web.Response(status=204)


def _records(request: web.Request) -> SessionRecords:
    return SessionRecords(request.app[SERVICES].engine)


async def _session(request: web.Request) -> Row:
    """The session named in the path; raises NotFound, or Gone for a deleted one."""
    thread_id = path_id(request, "session_id")
    _, owner = await subject(request, "read", f"session {thread_id}")
    row = await _records(request).session(owner, thread_id)
    if row is None:
        raise NotFound(f"there is no session {thread_id}")
    if row["deleted_at"] is not None:
        raise Gone("this session was deleted")
    return row


def _seq(request: web.Request) -> int:
    given = request.query.get("after", "0")
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise InvalidInput("after: must be the seq of a message")
    return int(given)


def _view(row: Row) -> dict[str, Any]:
    return {
        "session_id": row["thread_id"],
        "title": row["title"],
        "status": row["status"],
        "message_count": row["message_count"],
        "last_message_at": row["last_message_at"],
        "last_event_id": f"{row['log_epoch']}-{row['log_seq']}" if row["log_epoch"] else None,
        "usage": _totals(row),
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
    }


def _totals(row: Row) -> dict[str, Any]:
    counts = {name: row[name] for name in ("input_tokens", "output_tokens", "total_tokens", "unpriced_calls")}
    return counts | {"cost": money(row["cost"])}


def _message_view(row: Row) -> dict[str, Any]:
    return {("id" if name == "message_id" else name): value for name, value in row.items()}


def _call_view(row: Row) -> dict[str, Any]:
    shown = {name: value for name, value in row.items() if name not in ("internal_run_id", "cost")}
    return shown | {"cost": money(row["cost"])}


def _events_body(chunks: list[Chunk], count: int, log: EventId) -> bytes:
    """The first `count` events as JSON, their lines passed on as they are kept."""
    items = [
        (EventId(chunk.epoch, seq), line)
        for chunk in chunks
        for seq, line in enumerate(chunk.body.split(b"\n"), chunk.first)
    ][:count]
    shown = b",".join(b'{"id":"%b","event":%b}' % (str(event_id).encode(), line) for event_id, line in items)
    more = bool(items) and items[-1][0] < log
    following = b'"%b"' % str(items[-1][0]).encode() if more else b"null"
    return b'{"events":[%b],"next":%b}' % (shown, following)


ROUTES = [
    web.get(SESSIONS, index),
    web.get(SESSIONS + "/{session_id}", show),
    web.get(SESSIONS + "/{session_id}/messages", messages),
    web.get(SESSIONS + "/{session_id}/events", events),
    web.get(SESSIONS + "/{session_id}/usage", usage),
    web.delete(SESSIONS + "/{session_id}", delete),
]
