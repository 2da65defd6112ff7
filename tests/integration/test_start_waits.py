"""A process that cannot start yet says what the database really lacks, and starts once it is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from functools import partial

import pytest
from pydantic import SecretStr
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors import wiring
from callboard_runtime.cli import worker
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings
from waiting import until

KINDS = pytest.mark.parametrize(("kind", "table"), [("actors", "partitions"), ("worker", "processes")])
POWERLESS = "pg_signal_backend"  # every PostgreSQL has this role, and it may read no table of ours


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=0)
    yield engine
    await engine.dispose()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (wiring, worker):
        monkeypatch.setattr(module, "RETRY", 0.05)


def start(kind: str, engine: AsyncEngine, url: str) -> Awaitable[None]:
    if kind == "actors":
        return wiring._until_there("the database", partial(wiring._look, engine))
    return worker._wait_for("the database", worker._database(Settings(database_url=SecretStr(url))))


async def change(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as db:
        for statement in statements:
            await db.exec_driver_sql(statement)


async def waits(starting: asyncio.Future[None], caplog: pytest.LogCaptureFixture, says: str) -> None:
    await until(lambda: "waiting for the database" in caplog.text, "a line about it")
    assert says in caplog.text
    assert not starting.done()


@KINDS
async def test_without_the_tables(
    engine: AsyncEngine, postgres_url: str, caplog: pytest.LogCaptureFixture, kind: str, table: str
) -> None:
    await change(engine, f"ALTER TABLE {table} RENAME TO to_come")
    starting = asyncio.ensure_future(start(kind, engine, postgres_url))
    await waits(starting, caplog, "the database lacks a table: run `callboard migrate`")
    await change(engine, f"ALTER TABLE to_come RENAME TO {table}")
    await asyncio.wait_for(starting, 20)


@KINDS
async def test_without_the_rights(
    engine: AsyncEngine, postgres_url: str, caplog: pytest.LogCaptureFixture, kind: str, table: str
) -> None:
    await change(engine, f'ALTER DATABASE "{make_url(postgres_url).database}" SET role = {POWERLESS}')
    starting = asyncio.ensure_future(start(kind, engine, postgres_url))
    await waits(starting, caplog, f"permission denied for table {table}")
    await change(engine, "SET ROLE NONE", f"GRANT SELECT ON {table} TO {POWERLESS}")
    await asyncio.wait_for(starting, 20)
