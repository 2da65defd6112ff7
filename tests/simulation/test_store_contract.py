"""The in-memory tables keep the contract of PostgreSQL: the commits of whole schedules come out the same in both."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from asyncpg import IntegrityConstraintViolationError as Refused
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors import commit as commits
from callboard_actors.commit import Fences, PartitionsLost, RunIdTaken, Versioned, commit
from callboard_actors.connections import Connections
from callboard_actors.writes import KEYS
from callboard_runtime.persistence.database import create_engine, dump_json
from callboard_runtime.settings import Settings
from simulation.store import outcome_of
from simulation.world import World

SEEDS = range(1, 9)
AGAIN = 25  # commits that are tried once more, by the present owner on a state that has moved on


@pytest.fixture
def worlds() -> list[World]:
    found = [World(seed) for seed in SEEDS]
    for world in found:
        world.run()
    return found


@dataclass(frozen=True)
class Database:
    engine: AsyncEngine
    connections: Connections


@pytest.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    engine = create_engine(postgres_url, pool=2)
    connections = await Connections.open(Settings(database_url=SecretStr(postgres_url)), 1, "test")
    yield Database(engine, connections)
    await connections.close()
    await engine.dispose()


async def test_commits_come_out_the_same(worlds: list[World], database: Database) -> None:
    seen = await _carry_out(worlds, database)
    assert seen["written"] > 100
    assert seen["PartitionsLost"] > 10
    assert seen["of many partitions, PartitionsLost"] > 5


@pytest.mark.parametrize("planted", ["no version check", "no partition epoch"])
async def test_a_planted_bug_is_found(worlds: list[World], database: Database, planted: str) -> None:
    if planted == "no version check":
        bug = mock.patch.object(commits, "_guards", return_value=[])
    else:
        always_ours = commits._FENCE.replace("p.partition_epoch = f.epoch", "f.epoch > 0")
        bug = mock.patch.object(commits, "_FENCE", always_ours)
    with bug, pytest.raises(AssertionError):
        await _carry_out(worlds, database)


async def _carry_out(worlds: list[World], database: Database) -> Counter[str]:
    seen: Counter[str] = Counter()
    for world in worlds:
        await _clear(database.engine)
        for fences, group, outcome in world.tables.history:
            if outcome == "taken":
                await _take(database.engine, *fences)
            else:
                assert await _commit(database, fences, group) == outcome
                _count(seen, fences, outcome)
        await _try_again(world, database, seen)
        await _compare(world, database.engine)
    return seen


def _count(seen: Counter[str], fences: Fences, outcome: str) -> None:
    kind = outcome.partition(" ")[0]
    seen[kind] += 1
    if len(fences) > 1:
        seen[f"of many partitions, {kind}"] += 1


async def _try_again(world: World, database: Database, seen: Counter[str]) -> None:
    """A command decided on an old state is refused with its group, also while the partition is still ours."""
    chance, tables = random.Random(world.seed), world.tables
    written = [entry for entry in tables.history if entry[2] == "written" and entry[1]]
    for fences, group, _ in chance.sample(written, min(AGAIN, len(written))):
        others = chance.sample(world.partitions, 2)
        held = {p: tables.partitions[p] - chance.choice((0, 0, 0, 1)) for p in {*fences, *others}}
        try:
            tables.commit(held, group, announce=True)
            expected = "written"
        except Exception as error:
            expected = outcome_of(error)
        assert expected != "written"
        found = await _commit(database, held, group)
        assert found == expected
        _count(seen, held, expected)


async def _commit(database: Database, fences: Fences, group: list[Versioned]) -> str:
    try:
        await commit(database.connections, fences, group)
    except (PartitionsLost, RunIdTaken) as error:
        return outcome_of(error)
    except Refused:
        return "IntegrityError"
    return "written"


async def _take(engine: AsyncEngine, partition: int) -> None:
    async with engine.begin() as db:
        await db.execute(
            text("UPDATE partitions SET partition_epoch = partition_epoch + 1 WHERE partition = :p"), {"p": partition}
        )


async def _clear(engine: AsyncEngine) -> None:
    async with engine.begin() as db:
        await db.execute(text(f"TRUNCATE {', '.join(KEYS)} CASCADE"))
        await db.execute(text("UPDATE partitions SET partition_epoch = 0"))


async def _compare(world: World, engine: AsyncEngine) -> None:
    async with engine.connect() as db:
        for table, keys in KEYS.items():
            if table in ("outbox", "audit_log"):
                continue  # the relay deletes there, too, and their ids are drawn anew
            rows = (await db.execute(text(f"SELECT row_to_json(t)::text FROM {table} t"))).scalars()
            stored = [json.loads(row, parse_float=Decimal) for row in rows]
            by_key = {tuple(str(row[key]) for key in keys): row for row in stored}
            expected = {tuple(str(row[key]) for key in keys): row for row in world.tables.rows[table].values()}
            assert by_key.keys() == expected.keys(), table
            for key, row in expected.items():
                _same(table, row, by_key[key])
        wakeups = (await db.execute(text("SELECT run_id FROM outbox WHERE kind = 'wakeup'"))).scalars()
        assert set(wakeups) == {row["run_id"] for row in world.tables.of("outbox", kind="wakeup")}


def _same(table: str, row: dict[str, Any], stored: dict[str, Any]) -> None:
    for column, value in row.items():
        if column in ("created_at", "position") or (table, column) == ("run_attempts", "started_at"):
            continue  # the database's own
        found = stored[column]
        if isinstance(value, datetime):
            found = datetime.fromisoformat(found)
        elif isinstance(value, Decimal) or column == "cost":
            value, found = value and Decimal(value), found and Decimal(found)
        else:
            value = json.loads(dump_json(value), parse_float=Decimal)
        assert found == value, (table, column)
