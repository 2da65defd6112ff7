"""The way to PostgreSQL: one engine per process, its JSON codecs, transactions whose outages read as `Unavailable`."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from sqlalchemy import event, make_url
from sqlalchemy.engine import URL, ExceptionContext
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from callboard_runtime.errors import SettingsError, Unavailable
from callboard_runtime.settings import Settings

CONNECT_TIMEOUT = 5.0  # seconds
COMMAND_TIMEOUT = 15.0  # seconds; a server that froze or vanished must not hold a caller, or a shutdown, for long
IDLE_TRANSACTION = 10.0  # seconds; what a frozen or vanished process had locked is free again after that
CLOSE_TIMEOUT = 5.0  # seconds for all connections together
POOL_TIMEOUT = 10.0  # seconds to wait for a free connection
STATEMENTS = 256  # prepared statements kept per connection
DEFAULT_POOL = 10
_LACKS = {"42P01": "table", "42703": "column"}  # by SQLSTATE

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InsufficientResourcesError,  # too many connections, no memory, no disk
    asyncpg.OperatorInterventionError,  # shutting down, starting up, statement timeout
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.TargetServerAttributeNotMatched,  # between two primaries: all hosts answer, none can be written
    asyncpg.ReadOnlySQLTransactionError,  # the same, on a connection that there was before
    asyncpg.InvalidCachedStatementError,  # a migration changed a table under a prepared statement: it works anew
    ConnectionError,
    TimeoutError,
    socket.gaierror,
    PoolTimeout,
)


class SchemaBehind(SettingsError, Unavailable):
    """The database lacks what this release needs: an outage to those who can wait, a wrong setup to the others."""

    code = Unavailable.code


def create_engine(
    source: Settings | str,
    *,
    pool: int | None = None,
    name: str = "callboard",
    pre_ping: bool = False,
    command_timeout: float | None = COMMAND_TIMEOUT,
) -> AsyncEngine:
    """An engine for one event loop; connects on first use.

    `source` is the settings or a URL; `pool` is the number of connections (0: none is kept; default:
    `CALLBOARD_DATABASE_POOL`); `name` shows in pg_stat_activity. Without `pre_ping` the first statement after a
    restart of the server fails with `Unavailable` and clears the pool: fit for callers that retry.
    """
    url = source.required_database_url() if isinstance(source, Settings) else source
    size = pool if pool is not None else source.database_pool if isinstance(source, Settings) else DEFAULT_POOL
    target, connect_args = _asyncpg_url(url)
    sizes: dict[str, Any] = (
        {"pool_size": size, "max_overflow": 0, "pool_timeout": POOL_TIMEOUT, "pool_use_lifo": True}
        if size
        else {"poolclass": NullPool}
    )
    engine = create_async_engine(
        target,
        json_serializer=dump_json,
        json_deserializer=orjson.loads,
        pool_pre_ping=pre_ping,
        hide_parameters=True,  # parameters are users' content: they must not reach logs through an error's text
        connect_args={
            "timeout": CONNECT_TIMEOUT,
            "command_timeout": command_timeout,
            "prepared_statement_cache_size": STATEMENTS,
            "server_settings": _server_settings(name),
            **connect_args,
        },
        **sizes,
    )
    event.listen(engine.sync_engine, "handle_error", _leave_what_is_read_only)
    return engine


def _leave_what_is_read_only(context: ExceptionContext) -> None:
    """A connection to a server that cannot be written stays one, also when there is a primary again: none is kept."""
    if isinstance(context.original_exception.__cause__, asyncpg.ReadOnlySQLTransactionError):
        context.is_disconnect = True


def _server_settings(name: str) -> dict[str, str]:
    """A client that is gone without a word is found by the server: its locks first, then its connections."""
    idle = {"idle_in_transaction_session_timeout": str(int(IDLE_TRANSACTION * 1000))}
    keepalives = {"tcp_keepalives_idle": "30", "tcp_keepalives_interval": "10", "tcp_keepalives_count": "3"}
    return {"application_name": name, "jit": "off", **idle, **keepalives}


def driver_arguments(source: Settings | str) -> dict[str, Any]:
    """What `asyncpg.connect` takes to reach the same database without SQLAlchemy; several hosts are tried in order."""
    target, connect_args = _asyncpg_url(source.required_database_url() if isinstance(source, Settings) else source)
    return {**target.get_dialect()().create_connect_args(target)[1], **connect_args}


def _asyncpg_url(text: str) -> tuple[URL, dict[str, Any]]:
    """The URL for SQLAlchemy's asyncpg dialect; libpq's `sslmode` is passed on under asyncpg's name for it."""
    try:
        url = make_url(text)
    except Exception:  # noqa: BLE001 - its own message would show the URL, which may hold a password
        raise SettingsError(
            "CALLBOARD_DATABASE_URL cannot be read; its form is postgresql://user:password@host:port/database"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise SettingsError(f"CALLBOARD_DATABASE_URL names {url.drivername!r}; only postgresql:// is supported")
    sslmode = url.query.get("sslmode")
    url = url.set(drivername="postgresql+asyncpg").difference_update_query(["sslmode"])
    return url, {"ssl": sslmode} if sslmode else {}


def dump_json(value: object) -> str:
    """JSON text of a value: datetimes in ISO form, UUID and Decimal as text; integers of any size."""
    try:
        return orjson.dumps(value, default=_plain, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        return json.dumps(value, default=_plain)  # integers beyond 64 bits


def _plain(value: object) -> object:
    if isinstance(value, Decimal | UUID):  # asyncpg's UUID is a subclass, which orjson does not take for one
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


async def close_engine(engine: AsyncEngine) -> None:
    """Close its connections; those to a server that vanished say no goodbye, and are left to the end of the process."""
    with suppress(TimeoutError):
        async with asyncio.timeout(CLOSE_TIMEOUT):
            await engine.dispose()


@asynccontextmanager
async def connect(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A connection for reads; what is not committed inside is rolled back.

    Raises Unavailable for an outage, and its child SchemaBehind for a database that this release's migrations miss.
    """
    async with _outages(), engine.connect() as connection:
        yield connection


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """One transaction, committed at the end, rolled back by an exception; raises as `connect` does.

    When the outage hits the commit itself, nobody knows whether it took effect: look again before repeating.
    """
    async with _outages(), engine.begin() as connection:
        yield connection


@asynccontextmanager
async def snapshot(engine: AsyncEngine) -> AsyncGenerator[AsyncConnection]:
    """A read-only connection whose statements all see the same moment; raises as `connect` does."""
    async with _outages(), engine.connect() as connection:
        yield await connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


@asynccontextmanager
async def _outages() -> AsyncGenerator[None]:
    try:
        yield
    except Exception as error:
        if is_outage(error):
            name = type(_driver_error(error)).__name__
            raise Unavailable(f"the database is away ({name}); nothing is lost, try again") from error
        raise_if_behind(error)
        raise


def raise_if_behind(error: BaseException) -> None:
    """Raises SchemaBehind for a statement that met a schema older than this release: it works after the migration."""
    lacks = _LACKS.get(getattr(_driver_error(error), "sqlstate", None) or "")
    if lacks:
        raise SchemaBehind(f"the database lacks a {lacks}: run `callboard migrate`") from error


def is_outage(error: BaseException) -> bool:
    """Whether an error says that the server or the network is away, rather than that a statement is wrong."""
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return True
    cause = _driver_error(error)
    # A plain OSError is what asyncio makes of several refused addresses; its other subclasses are about files.
    return isinstance(cause, _AWAY) or type(cause) is OSError


def _driver_error(error: BaseException) -> BaseException:
    """asyncpg's own error, which SQLAlchemy wraps twice."""
    wrapped = error.orig if isinstance(error, DBAPIError) else None
    return (wrapped.__cause__ or wrapped) if wrapped is not None else error
