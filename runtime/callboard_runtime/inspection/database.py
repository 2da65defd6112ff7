"""The way operators' questions go to the database: read-only, of one moment, and never for long."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import snapshot

LONGEST = 5.0  # seconds that one statement may take
_LIMIT = text(f"SET LOCAL statement_timeout = {int(LONGEST * 1000)}")

Row = Mapping[Any, Any]


class Question:
    """A connection that asks several things of one moment."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection

    async def rows(self, statement: TextClause, **parameters: Any) -> list[Row]:
        return list((await self._connection.execute(statement, parameters)).mappings())

    async def row(self, statement: TextClause, **parameters: Any) -> Row | None:
        return (await self._connection.execute(statement, parameters)).mappings().first()


@asynccontextmanager
async def question(engine: AsyncEngine) -> AsyncGenerator[Question]:
    """Ask; raises Unavailable for an outage, and for a statement that took too long."""
    try:
        async with snapshot(engine) as connection:
            await connection.execute(_LIMIT)
            yield Question(connection)
    except Unavailable as error:
        if "QueryCanceled" in error.message:
            raise Unavailable(f"this took the database more than {LONGEST:g} s; ask for less, with a filter") from error
        raise
