"""The schema: up, down and up again on a real PostgreSQL, equal to the table classes, safe to start in parallel."""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit, urlunsplit

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import SettingsError, Unavailable
from callboard_runtime.persistence import migrate
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.persistence.tables import Base


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=2)
    yield engine
    await engine.dispose()


async def tables(engine: AsyncEngine) -> set[str]:
    async with engine.connect() as connection:
        names = await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        return set(names)


def differences(connection: Connection) -> list[object]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True, "target_metadata": Base.metadata}
    )
    return list(compare_metadata(context, Base.metadata))


async def test_migrations_build_exactly_the_declared_tables(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    assert await tables(engine) == {*Base.metadata.tables, "alembic_version"}


async def test_the_comparison_would_notice_a_missing_index(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP INDEX ix_outbox_due_at"))
        assert len(await connection.run_sync(differences)) == 1


async def test_every_partition_has_its_row(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        rows = await connection.execute(text("SELECT partition, owner, partition_epoch FROM partitions ORDER BY 1"))
        assert [tuple(row) for row in rows] == [(number, None, 0) for number in range(PARTITIONS)]


async def test_down_to_nothing_and_up_again(postgres_url: str, engine: AsyncEngine) -> None:
    migrate.downgrade(postgres_url, "base")
    assert migrate.current(postgres_url) is None
    assert not migrate.is_current(postgres_url)
    assert await tables(engine) == {"alembic_version"}

    migrate.upgrade(postgres_url)
    assert migrate.current(postgres_url) == migrate.head()
    assert migrate.is_current(postgres_url)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []


async def test_upgrade_of_a_current_database_keeps_its_rows(postgres_url: str, engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("UPDATE partitions SET partition_epoch = 7"))
    migrate.upgrade(postgres_url)
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT min(partition_epoch) FROM partitions")) == 7


def test_many_upgrades_at_once_are_one(postgres_url: str) -> None:
    migrate.downgrade(postgres_url, "base")
    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(migrate.upgrade, postgres_url) for _ in range(4)]:
            done.result()
    assert migrate.is_current(postgres_url)


async def test_callable_inside_an_event_loop(postgres_url: str) -> None:
    migrate.upgrade(postgres_url)
    assert await migrate.current_revision(postgres_url) == await asyncio.to_thread(migrate.current, postgres_url)


def test_unknown_revision_is_refused(postgres_url: str) -> None:
    with pytest.raises(Exception, match="no_such_revision"):
        migrate.upgrade(postgres_url, "no_such_revision")


def test_a_missing_server_reads_as_unavailable(postgres_url: str) -> None:
    nowhere = urlunsplit(urlsplit(postgres_url)._replace(netloc="callboard:callboard@127.0.0.1:1"))
    with pytest.raises(Unavailable, match="database is away"):
        migrate.current(nowhere)


def test_a_bad_url_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError, match="CALLBOARD_DATABASE_URL") as caught:
        migrate.current("hunter2")
    assert "hunter2" not in str(caught.value)
