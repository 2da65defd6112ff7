"""Heartbeats against a real PostgreSQL: what they write, that they outlast a restart, and that they leave cleanly."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from callboard_actors.connections import Connections
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence import migrate
from callboard_runtime.persistence.database import connect, create_engine, transaction
from callboard_runtime.persistence.heartbeats import Heartbeat
from callboard_runtime.settings import Settings
from services import PostgresServer
from waiting import until

PATIENCE = 30.0


@pytest.fixture
def beats() -> Iterator[list[Heartbeat]]:
    """Heartbeats to stop at the end."""
    started: list[Heartbeat] = []
    yield started
    for heartbeat in started:
        heartbeat.stop()


async def rows(url: str) -> list[Mapping[str, Any]]:
    engine = create_engine(url, pool=0)
    async with connect(engine) as connection:
        found = await connection.execute(text("SELECT *, beat_at > started_at AS again FROM processes ORDER BY id"))
        return [dict(row) for row in found.mappings()]


async def until_row(url: str, wanted: Any) -> Mapping[str, Any]:
    """Wait until a row fulfils `wanted`."""

    async def found() -> Mapping[str, Any] | None:
        return next((row for row in await rows(url) if wanted(row)), None)

    return await until(found, "a row", timeout=PATIENCE)


async def test_a_process_is_listed_with_its_slots_and_attempts(postgres_url: str, beats: list[Heartbeat]) -> None:
    slots, attempts = [3], [uuid.uuid4()]
    heartbeat = Heartbeat(
        postgres_url, "w1", "worker", interval=0.3, slots=lambda: slots[0], attempts=lambda: list(attempts)
    )
    beats.append(heartbeat)
    heartbeat.start()
    row = await until_row(postgres_url, lambda row: row["slots"] == 3)
    assert (row["id"], row["kind"], row["attempts"]) == ("w1", "worker", [str(attempts[0])])
    slots[0], attempts[:] = 2, []
    heartbeat.nudge()
    row = await until_row(postgres_url, lambda row: row["slots"] == 2)
    assert row["attempts"] == []
    assert row["again"], "the database's clock goes on with every beat"


async def test_a_nudge_does_not_wait_for_the_interval(postgres_url: str, beats: list[Heartbeat]) -> None:
    slots = [1]
    heartbeat = Heartbeat(postgres_url, "w1", "worker", interval=3600, slots=lambda: slots[0])
    beats.append(heartbeat)
    heartbeat.start()
    await until_row(postgres_url, lambda row: row["slots"] == 1)
    slots[0] = 7
    heartbeat.nudge()
    await until_row(postgres_url, lambda row: row["slots"] == 7)


async def test_a_stopped_process_leaves_the_list(postgres_url: str) -> None:
    heartbeat = Heartbeat(postgres_url, "w1", "worker", interval=3600)
    heartbeat.start()
    assert await asyncio.to_thread(heartbeat.wait_first, PATIENCE)
    await asyncio.to_thread(heartbeat.stop)
    assert await rows(postgres_url) == []
    heartbeat.stop()


async def test_two_processes_do_not_disturb_each_other(postgres_url: str, beats: list[Heartbeat]) -> None:
    for name in ("a", "b"):
        beats.append(Heartbeat(postgres_url, name, "http", interval=0.3))
        beats[-1].start()
    await until_row(postgres_url, lambda row: row["id"] == "b")
    await until_row(postgres_url, lambda row: row["id"] == "a")
    await asyncio.to_thread(beats[0].stop)
    assert [row["id"] for row in await rows(postgres_url)] == ["b"]


async def test_a_database_that_is_away_at_first_is_found_later(
    private_postgres: PostgresServer, beats: list[Heartbeat], caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(migrate.upgrade, private_postgres.url)
    private_postgres.stop()
    heartbeat = Heartbeat(private_postgres.url, "w1", "worker", interval=0.3)
    beats.append(heartbeat)
    heartbeat.start()
    await until(lambda: "no heartbeat" in caplog.text, timeout=PATIENCE)
    assert not heartbeat.wait_first(0)
    private_postgres.start()
    assert await asyncio.to_thread(heartbeat.wait_first, PATIENCE)


async def test_it_outlasts_a_restart_of_the_database(
    private_postgres: PostgresServer, beats: list[Heartbeat], caplog: pytest.LogCaptureFixture
) -> None:
    await asyncio.to_thread(migrate.upgrade, private_postgres.url)
    slots = [1]
    heartbeat = Heartbeat(private_postgres.url, "w2", "worker", interval=0.3, slots=lambda: slots[0])
    beats.append(heartbeat)
    heartbeat.start()
    await until_row(private_postgres.url, lambda row: row["slots"] == 1)
    assert heartbeat.heard_for(3600)
    private_postgres.kill()
    await until(lambda: "no heartbeat" in caplog.text, timeout=PATIENCE)
    assert not heartbeat.heard_for(0)
    private_postgres.start()
    slots[0] = 5
    await until_row(private_postgres.url, lambda row: row["slots"] == 5)
    await until(lambda: heartbeat.heard_for(0), timeout=PATIENCE)
    assert not heartbeat.heard_for(3600), "what others did meanwhile nobody knows"


WRITABLE_ONLY = "target_session_attrs=read-write"


def writable_only(url: str) -> str:
    """The URL that looks for a primary, as one with several hosts does."""
    return f"{url}{'&' if '?' in url else '?'}{WRITABLE_ONLY}"


@asynccontextmanager
async def nothing_writable(url: str) -> AsyncIterator[None]:
    """The moment of a switchover: the server answers, and is no primary. Connections from before are gone."""
    engine = create_engine(url, pool=0)
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    async with connect(autocommit) as connection:
        database = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        set_default = f'ALTER DATABASE "{database}" SET default_transaction_read_only'
        await connection.execute(text(f"{set_default} = on"))
        await connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
        try:
            yield
        finally:
            await connection.execute(text(f"{set_default} = off"))


async def test_it_outlasts_a_moment_without_a_primary(
    postgres_url: str, beats: list[Heartbeat], caplog: pytest.LogCaptureFixture
) -> None:
    slots = [1]
    heartbeat = Heartbeat(writable_only(postgres_url), "w3", "worker", interval=0.3, slots=lambda: slots[0])
    beats.append(heartbeat)
    heartbeat.start()
    await until_row(postgres_url, lambda row: row["slots"] == 1)
    async with nothing_writable(postgres_url):
        await until(lambda: not heartbeat.heard_for(0), timeout=PATIENCE)
        slots[0] = 5
    await until_row(postgres_url, lambda row: row["slots"] == 5)
    await until(lambda: heartbeat.heard_for(0), timeout=PATIENCE)
    assert not heartbeat.heard_for(3600)
    assert caplog.text.count("no heartbeat") == 1


async def test_an_error_of_its_own_does_not_end_it(
    postgres_url: str, beats: list[Heartbeat], caplog: pytest.LogCaptureFixture
) -> None:
    slots = [1]
    heartbeat = Heartbeat(postgres_url, "w4", "worker", interval=0.3, slots=lambda: 10 // slots[0])
    beats.append(heartbeat)
    heartbeat.start()
    await until_row(postgres_url, lambda row: row["slots"] == 10)
    slots[0] = 0
    await until(lambda: not heartbeat.heard_for(0), timeout=PATIENCE)
    slots[0] = 2
    await until_row(postgres_url, lambda row: row["slots"] == 5)
    assert "no heartbeat: ZeroDivisionError" in caplog.text


async def test_a_moment_without_a_primary_is_an_outage_and_over_after_it(postgres_url: str) -> None:
    """What was connected in that moment would stay read-only for ever: it is not kept."""
    picky, careless = create_engine(writable_only(postgres_url), pool=1), create_engine(postgres_url, pool=1)
    commits = await Connections.open(Settings(database_url=SecretStr(postgres_url)), 1, "commits")
    async with nothing_writable(postgres_url):
        with pytest.raises(Unavailable, match="TargetServerAttributeNotMatched"):
            async with connect(picky) as connection:
                await connection.execute(text("SELECT 1"))
        with pytest.raises(Unavailable, match="ReadOnlySQLTransactionError"):
            async with transaction(careless) as connection:
                await connection.execute(text("DELETE FROM processes"))
        with pytest.raises(Unavailable, match="ReadOnlySQLTransactionError"):
            await commits.fetch("DELETE FROM processes")
    await commits.fetch("DELETE FROM processes")
    await commits.close()
    for engine in (picky, careless):
        async with transaction(engine) as connection:
            await connection.execute(text("DELETE FROM processes"))
        await engine.dispose()
