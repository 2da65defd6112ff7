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


SOME_ID = "6f1d2c0e-54a8-5d0b-9d5e-4f1f0f6b7a01"

QUERIES = {
    "the log of a session beyond a cursor": (
        "SELECT lines FROM event_segments WHERE session_id = :id AND (epoch, last_seq) > (2, 7)"
        " ORDER BY epoch, first_seq LIMIT 10",
        "pk_event_segments",
    ),
    "the epochs of a leg": (
        "SELECT epoch FROM run_attempts WHERE run_id = :id AND leg = 1",
        "ix_run_attempts_run_id",
    ),
    "messages beyond a seq": (
        "SELECT * FROM messages WHERE session_id = :id AND seq > 7 ORDER BY seq LIMIT 10",
        "pk_messages",
    ),
    "a message by its id": (
        "SELECT seq FROM messages WHERE session_id = :id AND message_id = 'm'",
        "uq_messages_session_id_message_id",
    ),
    "a user's newest sessions, page by page": (
        "SELECT id FROM sessions WHERE user_id = 'ana' AND (updated_at, id) < (now(), :id)"
        " ORDER BY updated_at DESC, id DESC LIMIT 10",
        "ix_sessions_user_updated",
    ),
    "a run by its client's id": (
        "SELECT id FROM runs WHERE user_id = 'ana' AND client_run_id = 'r'",
        "uq_runs_user_id_client_run_id",
    ),
    "a leg by its client's id": (
        "SELECT run_id FROM run_legs WHERE user_id = 'ana' AND client_run_id = 'r'",
        "uq_run_legs_user_id_client_run_id_run_id_leg",
    ),
    "a session's newest runs": (
        "SELECT id FROM runs WHERE session_id = :id ORDER BY created_at DESC LIMIT 10",
        "ix_runs_session_id_created_at",
    ),
    "runs that are past their deadline": (
        "SELECT id FROM runs WHERE status IN ('queued', 'running', 'cancelling') AND deadline < now()",
        "ix_runs_live",
    ),
    "how many runs wait": ("SELECT count(*) FROM runs WHERE status = 'queued'", "ix_runs_status_created"),
    "everybody's newest runs of a status": (
        "SELECT id FROM runs WHERE status = 'failed' AND (created_at, id) < (now(), :id)"
        " ORDER BY created_at DESC, id DESC LIMIT 10",
        "ix_runs_status_created",
    ),
    "everybody's newest sessions of a status": (
        "SELECT id FROM sessions WHERE status = 'idle' AND (updated_at, id) < (now(), :id)"
        " ORDER BY updated_at DESC, id DESC LIMIT 10",
        "ix_sessions_status_updated",
    ),
    "the outbox rows that are due": ("SELECT id FROM outbox WHERE due_at <= now()", "ix_outbox_due_at"),
    "the journal of a run": (
        "SELECT * FROM run_steps WHERE run_id = :id",
        "pk_run_steps",
    ),
    "the calls of a run": (
        "SELECT * FROM llm_calls WHERE run_id = :id",
        "pk_llm_calls",
    ),
    "the calls of a session": (
        "SELECT sum(cost) FROM llm_calls WHERE session_id = :id",
        "ix_llm_calls_session_id",
    ),
    "the audit of a session": (
        "SELECT * FROM audit_log WHERE session_id = :id",
        "ix_audit_log_session_id",
    ),
}


@pytest.mark.parametrize(("query", "index"), QUERIES.values(), ids=QUERIES)
async def test_a_frequent_query_has_its_index(engine: AsyncEngine, query: str, index: str) -> None:
    async with engine.connect() as connection:
        await connection.execute(text("SET LOCAL enable_seqscan = off"))  # the tables are empty: ask what is possible
        plan = "\n".join(await connection.scalars(text("EXPLAIN " + query.replace(":id", f"uuid '{SOME_ID}'"))))
    assert f" {index} " in plan, plan
