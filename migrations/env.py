"""Alembic's entry: migrates over the connection it is given, or, run as `alembic …`, over one from the settings."""

import asyncio

from alembic import context
from sqlalchemy import Connection

from callboard_runtime.persistence.database import create_engine
from callboard_runtime.persistence.tables import Base
from callboard_runtime.settings import Settings

OPTIONS = {"target_metadata": Base.metadata, "compare_type": True, "compare_server_default": True}


def migrate(connection: Connection) -> None:
    context.configure(connection=connection, transaction_per_migration=True, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_from_settings() -> None:
    engine = create_engine(Settings(), pool=0, name="callboard-migrate", command_timeout=None)
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
        await connection.commit()
    await engine.dispose()


def print_sql() -> None:
    context.configure(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"}, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    print_sql()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    asyncio.run(migrate_from_settings())
