"""Actors that are newer than the schema: what they cannot carry out yet is held until the migration."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.errors import Refused
from callboard_runtime.persistence.database import SchemaBehind, connect
from waiting import until

from .actor_harness import USER, Actor, accept, actor

SESSION = session_uuid(USER, "t1")


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as one:
        yield one


async def change(it: Actor, statement: str) -> None:
    async with it.engine.begin() as db:
        await db.exec_driver_sql(statement)


async def held_until_migrated(
    it: Actor, caplog: pytest.LogCaptureFixture, what: str, behind: str, migrated: str, command: c.Command
) -> c.Reply:
    """The reply to a command that came before the migration; more tries than a failing command has are made."""
    await change(it, behind)
    delivered, reply = it.post(command)
    says = f"1 commands are held: the database lacks a {what}: run `callboard migrate`"
    caplog.set_level("DEBUG", "callboard_actors.stage")
    await until(lambda: caplog.text.count(says) > 5, "several tries")
    assert next(record for record in caplog.records if says in record.message).levelname == "WARNING"
    assert not delivered.fate.done()
    assert not reply.done()
    await change(it, migrated)
    answer = await asyncio.wait_for(reply, 20)
    assert await asyncio.wait_for(delivered.fate, 20) == "ack"
    return answer


@pytest.mark.parametrize(
    ("what", "behind", "migrated"),
    [
        ("table", "ALTER TABLE sessions RENAME TO later", "ALTER TABLE later RENAME TO sessions"),  # a look
        ("table", "ALTER TABLE outbox RENAME TO later", "ALTER TABLE later RENAME TO outbox"),  # a commit
        ("column", "ALTER TABLE runs RENAME cancel_by TO later", "ALTER TABLE runs RENAME later TO cancel_by"),
    ],
)
async def test_a_command_is_held_until_the_migration(
    it: Actor, caplog: pytest.LogCaptureFixture, what: str, behind: str, migrated: str
) -> None:
    reply = await held_until_migrated(it, caplog, what, behind, migrated, accept("r1"))
    reply.unwrap()
    assert len(await it.rows("SELECT 1 FROM runs")) == 1


async def test_a_large_command_is_held_until_the_migration(it: Actor, caplog: pytest.LogCaptureFixture) -> None:
    """Its claim is read on another way to the database."""
    claim = c.ClaimCheck(session_id=SESSION, claim_id=uuid.uuid4(), not_after=utcnow() + timedelta(minutes=1))
    behind, migrated = "ALTER TABLE command_claims RENAME TO later", "ALTER TABLE later RENAME TO command_claims"
    reply = await held_until_migrated(it, caplog, "table", behind, migrated, claim)
    with pytest.raises(Refused):  # looked for, and not there
        reply.unwrap()


async def test_what_a_statement_does_wrong_is_no_matter_of_migrations(it: Actor) -> None:
    with pytest.raises(Exception, match="division by zero") as caught:
        async with connect(it.engine) as db:
            await db.exec_driver_sql("SELECT 1 / 0")
    assert not isinstance(caught.value, SchemaBehind)
