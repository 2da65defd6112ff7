"""The in-memory tables keep the contract of PostgreSQL: the commits of whole schedules come out the same in both."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal
from typing import Any
from unittest import mock

import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError as Refused
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors import commit as commits
from callboard_actors.commit import RunIdTaken, Versioned, commit
from callboard_actors.writes import KEYS
from callboard_runtime.errors import FencedOut
from callboard_runtime.persistence.database import create_engine, dump_json
from simulation.world import World

SEEDS = range(1, 9)
AGAIN = 25  # commits that are tried once more, by the present owner on a state that has moved on


@pytest.fixture
def worlds() -> list[World]:
    found = [World(seed) for seed in SEEDS]
    for world in found:
        world.run()
    return found


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=2)
    yield engine
    await engine.dispose()


async def test_commits_come_out_the_same(worlds: list[World], engine: AsyncEngine) -> None:
    seen = await _carry_out(worlds, engine)
    assert seen["written"] > 100
    assert seen["FencedOut"] > 10


@pytest.mark.parametrize("planted", ["no version check", "no partition epoch"])
async def test_a_planted_bug_is_found(worlds: list[World], engine: AsyncEngine, planted: str) -> None:
    if planted == "no version check":
        bug = mock.patch.object(commits, "_guards", return_value=[])
    else:
        real = commits.Statement.__init__

        def always_ours(self: Any, writes: Any, partition: int, partition_epoch: int) -> None:
            real(self, writes, partition, partition_epoch)
            self.text = self.text.replace("AND partition_epoch = $2", "AND $2::bigint > 0")

        bug = mock.patch.object(commits.Statement, "__init__", always_ours)
    with bug, pytest.raises(AssertionError):
        await _carry_out(worlds, engine)


async def _carry_out(worlds: list[World], engine: AsyncEngine) -> Counter[str]:
    seen: Counter[str] = Counter()
    for world in worlds:
        await _clear(engine)
        for partition, epoch, group, outcome in world.tables.history:
            if outcome == "taken":
                await _take(engine, partition)
            else:
                assert await _commit(engine, partition, epoch, group) == outcome
                seen[outcome] += 1
        await _try_again(world, engine, seen)
        await _compare(world, engine)
    return seen


async def _try_again(world: World, engine: AsyncEngine, seen: Counter[str]) -> None:
    """A command decided on an old state is refused, also when the partition is still ours."""
    chance, tables = random.Random(world.seed), world.tables
    written = [entry for entry in tables.history if entry[3] == "written" and entry[2]]
    for partition, _, group, _ in chance.sample(written, min(AGAIN, len(written))):
        epoch = tables.partitions[partition] - chance.choice((0, 0, 0, 1))
        try:
            tables.commit(partition, epoch, group, announce=True)
            expected = "written"
        except Exception as error:
            expected = type(error).__name__
        assert expected != "written"
        found = await _commit(engine, partition, epoch, group)
        assert found == expected or {found, expected} == {"FencedOut", "IntegrityError"}  # a reference to what is gone
        seen[expected] += 1


async def _commit(engine: AsyncEngine, partition: int, epoch: int, group: list[Versioned]) -> str:
    try:
        await commit(engine, partition, epoch, group)
    except (FencedOut, RunIdTaken) as error:
        return type(error).__name__
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
