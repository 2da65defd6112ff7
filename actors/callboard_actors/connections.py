"""The hot path's own way to PostgreSQL: asyncpg itself, a few connections, one round trip per statement.

A statement is a transaction of its own here; what must not be kept makes the statement fail.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, Self

import asyncpg

from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import (
    COMMAND_TIMEOUT,
    CONNECT_TIMEOUT,
    STATEMENTS,
    driver_arguments,
    is_outage,
    raise_if_behind,
)
from callboard_runtime.settings import Settings

CLOSE_TIMEOUT = 5.0
SERVER_SETTINGS = {
    "jit": "off",
    # The rows of a group come by primary key, however small the tables were when the plan was made.
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
}


_untyped: Any = asyncpg  # it comes without types


class Connections:
    """At most so many connections, opened when first needed; for the event loop that opened them."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @classmethod
    async def open(cls, settings: Settings, size: int, name: str) -> Self:
        """Ready for use; connects only when something is asked."""
        return cls(
            await _untyped.create_pool(
                **driver_arguments(settings),
                min_size=0,
                max_size=size,
                timeout=CONNECT_TIMEOUT,
                command_timeout=COMMAND_TIMEOUT,
                statement_cache_size=STATEMENTS,
                reset=_as_it_is,
                server_settings={**SERVER_SETTINGS, "application_name": name},
            )
        )

    async def fetch(self, statement: str, *parameters: object) -> list[Any]:
        """The rows of one statement, committed with it; raises Unavailable for an outage or a schema to come."""
        async with _outages():
            connection = await self._pool.acquire()
            try:
                return await connection.fetch(statement, *parameters)
            except asyncpg.ReadOnlySQLTransactionError:
                connection.terminate()  # it would stay so, also when there is a primary again
                raise
            finally:
                # After a timeout the server is asked to stop, and is not waited for longer than this.
                await self._pool.release(connection, timeout=CLOSE_TIMEOUT)

    async def close(self) -> None:
        """Close what is open; statements under way end first, within `CLOSE_TIMEOUT` seconds."""
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._pool.close()
        except TimeoutError:  # a server that vanished says no goodbye
            self._pool.terminate()


async def _as_it_is(_: Any) -> None:
    """Nothing that we run leaves anything behind in a connection."""


@asynccontextmanager
async def _outages() -> AsyncGenerator[None]:
    try:
        yield
    except Exception as error:
        if is_outage(error) or _was_closed(error):
            name = type(error).__name__
            raise Unavailable(f"the database is away ({name}); nothing is lost, try again") from error
        raise_if_behind(error)
        raise


def _was_closed(error: Exception) -> bool:
    """Whether the connection was closed before anything was sent; a value that cannot be sent is something else."""
    return isinstance(error, asyncpg.InterfaceError) and not isinstance(error, ValueError)
