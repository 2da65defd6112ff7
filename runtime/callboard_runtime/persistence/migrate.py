"""Brings a database to a revision of the schema with Alembic, in this process; any number of these at once is safe."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.errors import CallboardError
from callboard_runtime.persistence.database import connect, create_engine

T = TypeVar("T")

_LOCK = 0x43414C4C424F4152  # "CALLBOAR": held while a migration runs
_LOCK_PAUSE = 0.2  # seconds
_HERE = Path(__file__).resolve().parent
_PLACES = (_HERE / "migrations", _HERE.parents[2] / "migrations")  # in an installed wheel; in the repository


def migrations_dir() -> Path:
    """The folder of Alembic's env.py and versions."""
    for place in _PLACES:
        if (place / "env.py").is_file():
            return place
    raise CallboardError(f"the migrations are missing; looked in {' and '.join(map(str, _PLACES))}: install again")


def alembic_config() -> Config:
    """Alembic's configuration without an ini file."""
    config = Config()
    config.set_main_option("script_location", str(migrations_dir()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def head() -> str:
    """The newest revision that this release knows."""
    revision = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if revision is None:
        raise CallboardError("there are no migrations in " + str(migrations_dir()))
    return revision


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database up to `revision`; does nothing when it is there. Others that try at once wait for this one."""
    _wait_for(_locked(url, lambda config: command.upgrade(config, revision)))


def downgrade(url: str, revision: str) -> None:
    """Take the database back to `revision`; `base` removes every table and all data."""
    _wait_for(_locked(url, lambda config: command.downgrade(config, revision)))


def current(url: str) -> str | None:
    """The database's revision; None for one that was never migrated."""
    return _wait_for(current_revision(url))


def is_current(url: str) -> bool:
    """Whether the database has exactly the schema of this release."""
    return current(url) == head()


async def current_revision(url: str) -> str | None:
    """The same as `current`, for callers inside an event loop."""
    engine = create_engine(url, pool=0, name="callboard-migrate")
    try:
        async with connect(engine) as connection:
            return await connection.run_sync(_revision_of)
    finally:
        await engine.dispose()


def _revision_of(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


async def _locked(url: str, migrate: Callable[[Config], None]) -> None:
    engine = create_engine(url, pool=0, name="callboard-migrate", command_timeout=None)
    try:
        async with connect(engine) as connection:
            await _lock(connection)
            await connection.run_sync(_with_alembic, migrate)
            await connection.commit()
    finally:
        await engine.dispose()  # closing the connection releases the lock


async def _lock(connection: AsyncConnection) -> None:
    """Wait for our turn, with a session's lock: a migration may need to commit in between.

    Nothing waits inside the server: an index that is made concurrently would wait for that statement, and it for us.
    """
    while not await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
        await connection.commit()
        await asyncio.sleep(_LOCK_PAUSE)
    await connection.commit()


def _with_alembic(connection: Connection, migrate: Callable[[Config], None]) -> None:
    config = alembic_config()
    config.attributes["connection"] = connection
    migrate(config)


def _wait_for(work: Coroutine[object, object, T]) -> T:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(work)
    with ThreadPoolExecutor(1) as thread:  # the caller is a coroutine: this must not disturb its loop
        return thread.submit(lambda: asyncio.run(work)).result()
