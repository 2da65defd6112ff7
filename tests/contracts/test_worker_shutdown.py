"""A worker that is told to stop while a run is not under way yet: it waits for nothing, and keeps nothing."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import Command, DoneAnswer, ReleaseRun, Reply, StartAnswer, StartRun, refusal
from callboard_runtime.domain.event_batch import batch
from callboard_runtime.domain.ids import partition_of, utcnow
from callboard_runtime.entry import run_service
from callboard_runtime.entry.run_service import WorkerServices, execute_run
from callboard_runtime.entry.running import RunningAttempts
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore
from contracts.peers import PATIENCE, ScriptedActor, scripted_actor

SESSION, RUN, EPOCH, LEG = uuid.UUID(int=5), uuid.UUID(int=6), 4, 2
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
HOUR = 3600.0  # seconds


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[WorkerServices]:
    """What a worker's runs use; its database is away, and Redis, too."""
    commands = await CommandClient.connect(url, "test")
    lanes = await LanePublisher.connect(url, "test-lanes")
    tail = GuardedTail(TailStore.from_url("redis://127.0.0.1:1/0", "nobody"))
    engine = create_engine(NOWHERE, pool=0)
    try:
        yield WorkerServices(Settings(), "w", commands, lanes, tail, engine, RunningAttempts(1))
    finally:
        await tail.close()
        await lanes.close()
        await commands.close()


async def run_until_shut_down(services: WorkerServices, actor: ScriptedActor) -> None:
    """Execute a leg, and shut the worker down once the actor has been asked for its epoch."""
    executing = asyncio.create_task(execute_run(SESSION, RUN, LEG, services))
    await actor.until(1)
    services.attempts.shut_down()
    async with asyncio.timeout(PATIENCE):
        await executing


async def test_it_does_not_wait_for_an_actor_to_grant_an_epoch(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_service, "START_PATIENCE", HOUR)

    async def away(_: Command) -> Reply:
        return refusal(Unavailable("the database is away"))

    async with scripted_actor(broker_url, away, partition_of(SESSION)) as actor, worker(broker_url) as services:
        await run_until_shut_down(services, actor)
        assert {type(command) for command in actor.commands} == {StartRun}


async def test_it_gives_back_a_run_that_it_cannot_read(broker_url: str) -> None:
    opening = batch(EPOCH, 1, [{"type": "RUN_STARTED"}])
    deadline = utcnow() + timedelta(seconds=HOUR)
    grant = StartAnswer(epoch=EPOCH, attempt=2, leg=LEG, opening=opening, deadline=deadline)

    async def granting(command: Command) -> Reply:
        return Reply(answer=grant if isinstance(command, StartRun) else DoneAnswer())

    async with scripted_actor(broker_url, granting, partition_of(SESSION)) as actor, worker(broker_url) as services:
        await run_until_shut_down(services, actor)
        assert actor.commands[1:] == [ReleaseRun(session_id=SESSION, run_id=RUN, epoch=EPOCH, ordinal=1)]
