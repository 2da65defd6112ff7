"""What every handler asks of its request first: who it is from, whose data it names, and its parameters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from callboard_http import run_commands
from callboard_http.auth import Principal
from callboard_http.authorise import Action, authorise
from callboard_http.deps import DEPS, SERVICES
from callboard_http.records import RunRecord
from callboard_http.run_request import check_id
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.domain.ids import UserId
from callboard_runtime.errors import InvalidInput

MAX_PAGE = 500
LARGEST = 2**53

_USERS: TypeAdapter[str] = TypeAdapter(UserId)


async def subject(request: web.Request, action: Action, what: str) -> tuple[Principal, str]:
    """Who asks, and whose `what` is meant: their own, or with `?user=` someone else's, if they may."""
    principal = request.app[DEPS].authenticator.authenticate(request.headers)
    owner = check_user(request.query.get("user", principal.user_id))
    await may(request, principal, action, owner, what)
    return principal, owner


async def may(request: web.Request, principal: Principal, action: Action, owner: str, what: str) -> None:
    """Raises NotFound unless `principal` may do this."""
    records, settings = request.app[SERVICES].records, request.app[DEPS].settings
    await authorise(principal, action, owner, what, records=records, settings=settings)


def path_id(request: web.Request, name: str) -> str:
    """A client id out of the path."""
    return check_id(name, request.match_info[name])


async def owned_run(request: web.Request, owner: str, run_id: str) -> RunRecord:
    """The owner's run; raises NotFound, or Gone when its session was deleted."""
    return await run_commands.owned_run(request.app[SERVICES].records, owner, run_id)


async def read_body(request: web.Request) -> bytes:
    """The whole body; raises HTTPRequestTimeout for one that trickles in, HTTPRequestEntityTooLarge for a large one."""
    try:
        async with asyncio.timeout(request.app[DEPS].settings.http.body_timeout):
            return await request.read()
    except TimeoutError:
        raise web.HTTPRequestTimeout from None


def check_user(name: str) -> str:
    """`name` if it can be a user's; raises InvalidInput."""
    try:
        return _USERS.validate_python(name)
    except ValidationError:
        raise InvalidInput("user: must be a name of 1 to 200 printable characters") from None


def cursor(text: str) -> EventId:
    """An event id from outside; raises InvalidInput for what cannot be one."""
    event_id = EventId.parse(text)
    if max(event_id) >= LARGEST:
        raise InvalidInput(f"event id {text[:40]!r} is larger than any")
    return event_id


def page_size(query: Mapping[str, str], default: int = 50, most: int = MAX_PAGE) -> int:
    """`?limit=`, from 1 to `most`; raises InvalidInput."""
    given = query.get("limit", str(default))
    if not (given.isascii() and given.isdigit() and len(given) <= len(str(most)) and 1 <= int(given) <= most):
        raise InvalidInput(f"limit: must be a number from 1 to {most}")
    return int(given)


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON response; money as text, times in ISO form."""
    return web.Response(
        status=status, body=orjson.dumps(value, default=str), content_type="application/json", headers=headers
    )
