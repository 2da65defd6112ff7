"""What the commands for operators ask: one connection per call, to the services that are configured or run here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus
from callboard_runtime.errors import InvalidInput
from callboard_runtime.inspection.ages import moment
from callboard_runtime.inspection.names import run_id, session_id
from callboard_runtime.inspection.notes import note_look
from callboard_runtime.inspection.run_detail import get_run
from callboard_runtime.inspection.runs import RunFilter, list_runs
from callboard_runtime.inspection.sessions import SessionFilter, get_session, list_sessions
from callboard_runtime.inspection.status import get_status
from callboard_runtime.inspection.views import (
    DeliveryList,
    DeliveryStatus,
    RunDetail,
    RunLine,
    RunList,
    SessionDetail,
    SessionList,
    Status,
)
from callboard_runtime.inspection.webhooks import list_deliveries
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings
from callboard_runtime.stream.tail import connect_redis

RUNS_OF_A_SESSION = 50

T = TypeVar("T")
S = TypeVar("S", RunStatus, SessionStatus, DeliveryStatus)


def ask(question: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """The answer of the database; raises Unavailable when it is away."""

    async def run() -> T:
        engine = create_engine(Settings(), pool=0, name="callboard-cli")
        try:
            return await question(engine)
        finally:
            await engine.dispose()

    return asyncio.run(run())


def sessions(user: str | None, status: str | None, count: int, after: str | None) -> SessionList:
    wanted = SessionFilter(user, _statuses(SessionStatus, status) or SessionFilter().statuses)
    return ask(lambda engine: list_sessions(engine, wanted, count, after))


def session(given: str, user: str | None) -> tuple[SessionDetail, tuple[RunLine, ...]]:
    """A session and its newest runs; the look is noted. Raises NotFound with what was probably meant."""

    async def question(engine: AsyncEngine) -> tuple[SessionDetail, tuple[RunLine, ...]]:
        found = await session_id(engine, given, user)
        detail = await get_session(engine, found)
        page = await list_runs(engine, RunFilter(session=found), RUNS_OF_A_SESSION, None)
        await note_look(engine, f"{detail.session.user_id}: session {detail.session.session_id}", found)
        return detail, page.runs

    return ask(question)


def runs(
    status: str | None,
    agent: str | None,
    of_session: str | None,
    newer_than: str | None,
    older_than: str | None,
    count: int,
    after: str | None,
) -> RunList:
    async def question(engine: AsyncEngine) -> RunList:
        wanted = RunFilter(
            session=await session_id(engine, of_session) if of_session else None,
            statuses=_statuses(RunStatus, status) or RunFilter().statuses,
            agent_id=agent,
            since=moment("--newer-than", newer_than),
            until=moment("--older-than", older_than),
        )
        return await list_runs(engine, wanted, count, after)

    return ask(question)


def run(given: str, user: str | None) -> RunDetail:
    """A run whole; the look is noted. Raises NotFound with what was probably meant."""

    async def question(engine: AsyncEngine) -> RunDetail:
        detail = await get_run(engine, await run_id(engine, given, user))
        line = detail.run
        await note_look(engine, f"{line.user_id}: run {line.run_id}", line.session, line.id)
        return detail

    return ask(question)


def deliveries(status: str | None, count: int, after: str | None) -> DeliveryList:
    wanted = _statuses(DeliveryStatus, status) or list(DeliveryStatus)
    return ask(lambda engine: list_deliveries(engine, wanted, count, after))


def status() -> Status:
    """How the system is; outages are part of the answer."""
    settings = Settings()
    amqp_url, redis_url = settings.required_amqp_url(), settings.redis_url
    logging.getLogger("aiormq").addHandler(logging.NullHandler())  # the table says what is away

    async def question(engine: AsyncEngine) -> Status:
        redis = connect_redis(redis_url.get_secret_value()) if redis_url else None
        try:
            ping = redis.get(f"{settings.redis_prefix}:ping") if redis is not None else None
            return await get_status(engine, amqp_url, ping, settings.actors.silent_after)
        finally:
            if redis is not None:
                await redis.aclose()

    return ask(question)


def _statuses(kind: type[S], given: str | None) -> list[S]:
    try:
        return [kind(name.strip()) for name in given.split(",")] if given else []
    except ValueError:
        raise InvalidInput(f"--status: {given!r} is none; write of {', '.join(kind)}, separated by commas") from None
