"""For operators: everybody's sessions and runs, read-only. Lists are without content; each look at content is noted."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Sequence
from typing import TypeVar
from uuid import UUID

from aiohttp import web
from aiohttp.helpers import ETag
from pydantic import BaseModel

from callboard_http.auth import Principal
from callboard_http.authorise import NOBODY, authorise
from callboard_http.deps import DEPS, SERVICES
from callboard_http.lookout import LOOKOUT
from callboard_http.request_context import check_user, page_size
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus
from callboard_runtime.errors import InvalidInput
from callboard_runtime.inspection.ages import moment
from callboard_runtime.inspection.approvals import list_approvals
from callboard_runtime.inspection.paging import MAX_PAGE
from callboard_runtime.inspection.run_detail import get_run
from callboard_runtime.inspection.runs import RunFilter, list_runs
from callboard_runtime.inspection.sessions import SessionFilter, get_session, list_sessions
from callboard_runtime.inspection.views import DeliveryStatus
from callboard_runtime.inspection.webhooks import list_deliveries

OPERATOR = "/api/v1/operator"
READ = "operator_read"
MAX_NAME = 200

T = TypeVar("T")
S = TypeVar("S", SessionStatus, RunStatus, DeliveryStatus)


async def sessions(request: web.Request) -> web.Response:
    """GET /sessions: the one that changed last first; `?user=`, `?status=`."""
    await operator(request, "sessions of all users")
    user = request.query.get("user")
    wanted = SessionFilter(
        check_user(user) if user is not None else None, _statuses(request, SessionStatus, SessionFilter().statuses)
    )
    engine = request.app[SERVICES].engine
    return view(await looked(request, list_sessions(engine, wanted, rows_wanted(request), request.query.get("after"))))


async def session(request: web.Request) -> web.Response:
    """GET /sessions/{internal_id}: one session, by its internal id, with its title."""
    principal = await operator(request, "sessions of all users")
    detail = await looked(request, get_session(request.app[SERVICES].engine, internal_id(request)))
    line = detail.session
    return await content(
        request, principal, detail, line.user_id, f"session {line.session_id}", tag(detail), session_id=line.id
    )


async def runs(request: web.Request) -> web.Response:
    """GET /runs: the newest first; `?session=`, `?status=`, `?agent=`, `?newer_than=`, `?older_than=`."""
    await operator(request, "runs of all users")
    session_id = request.query.get("session")
    wanted = RunFilter(
        session=parse_id("session", session_id) if session_id is not None else None,
        statuses=_statuses(request, RunStatus, RunFilter().statuses),
        agent_id=_name(request, "agent"),
        since=moment("newer_than", request.query.get("newer_than")),
        until=moment("older_than", request.query.get("older_than")),
    )
    engine = request.app[SERVICES].engine
    return view(await looked(request, list_runs(engine, wanted, rows_wanted(request), request.query.get("after"))))


async def run(request: web.Request) -> web.Response:
    """GET /runs/{internal_id}: one run whole, by its internal id."""
    principal = await operator(request, "runs of all users")
    detail = await looked(request, get_run(request.app[SERVICES].engine, internal_id(request)))
    line = detail.run
    # Looks of operators are no change: else each of them would make the next one necessary.
    unseen = detail.model_copy(update={"audit": tuple(row for row in detail.audit if row.action != READ)})
    return await content(
        request,
        principal,
        detail,
        line.user_id,
        f"run {line.run_id}",
        tag(unseen),
        session_id=line.session,
        run_id=line.id,
    )


async def approvals(request: web.Request) -> web.Response:
    """GET /approvals: what waits for a person's decision, longest first; arguments are in the run."""
    await operator(request, "approvals of all users")
    engine = request.app[SERVICES].engine
    return view(await looked(request, list_approvals(engine, rows_wanted(request), request.query.get("after"))))


async def webhooks(request: web.Request) -> web.Response:
    """GET /webhooks: deliveries, the newest first; `?status=`."""
    await operator(request, "webhooks")
    statuses, engine = _statuses(request, DeliveryStatus, list(DeliveryStatus)), request.app[SERVICES].engine
    question = list_deliveries(engine, statuses, rows_wanted(request), request.query.get("after"))
    return view(await looked(request, question))


# -- what these and the other operator routes share -------------------------------------------------------------------


async def operator(request: web.Request, what: str) -> Principal:
    """The operator who asks; raises NotFound for anybody else, and notes that they asked."""
    deps = request.app[DEPS]
    principal = deps.authenticator.authenticate(request.headers)
    records = request.app[SERVICES].records
    await authorise(principal, "inspect", NOBODY, what, records=records, settings=deps.settings)
    return principal


async def looked(request: web.Request, question: Awaitable[T]) -> T:
    """The answer to a question, of which one front asks few at a time: users come first."""
    async with request.app[LOOKOUT].turn:
        return await question


async def content(
    request: web.Request,
    principal: Principal,
    shown: BaseModel,
    owner: str,
    what: str,
    etag: str,
    *,
    session_id: UUID | None = None,
    run_id: UUID | None = None,
) -> web.Response:
    """Somebody's content, once the look at it is noted; who has it already is told so, which is no look."""
    if request.if_none_match and any(known.value == etag for known in request.if_none_match):
        return web.Response(status=304, headers={"ETag": f'"{etag}"'})
    records, settings = request.app[SERVICES].records, request.app[DEPS].settings
    await authorise(
        principal, "read", owner, what, records=records, settings=settings, session_id=session_id, run_id=run_id
    )
    response = view(shown)
    response.etag = ETag(etag)
    return response


def view(shown: BaseModel) -> web.Response:
    return web.Response(
        body=shown.model_dump_json().encode(), content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def tag(shown: BaseModel) -> str:
    """An entity tag of what is shown."""
    return hashlib.sha256(shown.model_dump_json().encode()).hexdigest()[:24]


def rows_wanted(request: web.Request, default: int = 50) -> int:
    """`?limit=`, 1 to 200."""
    return page_size(request.query, default, MAX_PAGE)


def internal_id(request: web.Request) -> UUID:
    return parse_id("internal_id", request.match_info["internal_id"])


def parse_id(name: str, given: str) -> UUID:
    """An internal id; raises InvalidInput."""
    try:
        return UUID(given)
    except ValueError:
        raise InvalidInput(f"{name}: must be an internal id, which is a UUID; a list has them as `id`") from None


def _statuses(request: web.Request, kind: type[S], otherwise: Sequence[S]) -> list[S]:
    """`?status=`, one or several with commas."""
    given = request.query.get("status")
    if given is None:
        return list(otherwise)
    try:
        return list(dict.fromkeys(kind(name) for name in given.split(",")))
    except ValueError:
        raise InvalidInput(f"status: must be of {', '.join(kind)}, separated by commas") from None


def _name(request: web.Request, parameter: str) -> str | None:
    given = request.query.get(parameter)
    if given is not None and (not 1 <= len(given) <= MAX_NAME or not given.isprintable()):
        raise InvalidInput(f"{parameter}: must have 1 to {MAX_NAME} printable characters")
    return given


ROUTES = [
    web.get(OPERATOR + "/sessions", sessions),
    web.get(OPERATOR + "/sessions/{internal_id}", session),
    web.get(OPERATOR + "/runs", runs),
    web.get(OPERATOR + "/runs/{internal_id}", run),
    web.get(OPERATOR + "/approvals", approvals),
    web.get(OPERATOR + "/webhooks", webhooks),
]
