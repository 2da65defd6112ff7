"""The first attempt of a run that was just accepted is granted without a look at the database, and granted the same."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callboard_actors.store import PostgresStore
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.state_snapshot import RunStatus

from .actor_harness import Actor, Worker, accept, actor, start


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as one:
        yield one


async def test_a_run_is_granted_the_same_from_memory_and_from_the_database(
    it: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = PostgresStore.look

    async def noted(store: PostgresStore, asked):  # type: ignore[no-untyped-def]
        looked.extend(command.type for _, command in asked)
        return await look(store, asked)

    monkeypatch.setattr(PostgresStore, "look", noted)
    granted: list[tuple[list[str], int, bool]] = []
    for run_id, held in (("r1", True), ("r2", False)):
        await it.send(accept(run_id))
        if not held:
            await it.take()
        looked.clear()
        answer = await it.send(start(run_id))
        assert isinstance(answer, c.StartAnswer)
        assert looked == ([] if held else ["StartRun"])
        lines = [line.replace(run_id, "r") for line in answer.opening.lines]
        granted.append((lines, answer.attempt, answer.begun))
        await it.send(Worker.of(run_id, answer).command(c.FinishRun, status=RunStatus.SUCCEEDED))
    assert granted[0] == granted[1]


async def test_a_message_that_the_session_has_is_not_the_next_runs_own(it: Actor) -> None:
    await it.send(accept("r1"))
    first = Worker.of("r1", await it.send(start("r1")))
    await it.send(first.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    [stored] = await it.rows("SELECT input FROM runs WHERE client_run_id = 'r1'")
    await it.send(accept("r2", input=accept("r1").input))
    answer = await it.send(start("r2"))
    assert isinstance(answer, c.StartAnswer)
    assert "messages" not in answer.opening.lines[0]
    rows = await it.rows("SELECT input FROM runs ORDER BY created_at")
    assert [bool(row["input"].get("messages")) for row in rows] == [True, False]  # type: ignore[attr-defined]
    assert stored == rows[0]
    assert await it.rows("SELECT message_id FROM messages") == [{"message_id": "m-r1"}]
