"""Whole actor processes with the real mailboxes: ownership, hand-over, and services that are away."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aio_pika
import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.wiring import ActorProcess, actor_process
from callboard_runtime.broker import topology
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import AcceptRun, RunAnswer
from callboard_runtime.domain.ids import partition_of
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import ActorSettings, LlmSettings, Settings
from integration.actor_harness import accept
from services import TcpProxy
from waiting import until

PATIENCE = 30.0
SESSION = accept("r").session_id
PARTITION = partition_of(SESSION)


class World:
    """Actor processes on one broker, database and Redis, and a caller."""

    def __init__(self, settings: Settings, engine: AsyncEngine, commands: CommandClient, stack: AsyncExitStack) -> None:
        self.settings, self.engine, self.commands, self._stack = settings, engine, commands, stack

    async def process(self, **changes: object) -> ActorProcess:
        """A process that runs until the test ends."""
        process, _ = await self.stoppable(**changes)
        return process

    async def stoppable(self, **changes: object) -> tuple[ActorProcess, Callable[[], Awaitable[None]]]:
        """A process, and the way to stop it as SIGTERM does."""
        started: asyncio.Future[ActorProcess] = asyncio.get_running_loop().create_future()
        serving = asyncio.create_task(_serve(self.settings.model_copy(update=changes), started))

        async def stop() -> None:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)

        self._stack.push_async_callback(stop)
        return await asyncio.wait_for(started, PATIENCE), stop

    async def accept(self, number: int, timeout: float = PATIENCE) -> RunAnswer:
        answer = await self.commands.send(accept(f"r{number}", text=f"n{number}"), timeout)
        assert isinstance(answer, RunAnswer)
        return answer

    async def scalar(self, statement: str, **values: object) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(statement), values)).scalar()

    async def owner(self) -> tuple[str | None, int]:
        async with self.engine.connect() as connection:
            query = "SELECT owner, partition_epoch FROM partitions WHERE partition = :p"
            row = (await connection.execute(text(query), {"p": PARTITION})).one()
        return row.owner, row.partition_epoch

    async def accepted(self) -> list[str]:
        """The session's runs in the order of acceptance: the active one, then the queue."""
        snapshot = await self.scalar("SELECT state_snapshot FROM sessions WHERE id = :s", s=SESSION)
        runs = [snapshot["active"], *snapshot.get("queue", [])] if snapshot else []
        return [run["client_run_id"] for run in runs]


async def _serve(settings: Settings, started: asyncio.Future[ActorProcess]) -> None:
    async with actor_process(settings) as process, asyncio.TaskGroup() as duties:
        started.set_result(process)
        for duty in process.duties():
            duties.create_task(duty())


@pytest.fixture
async def world(postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> AsyncIterator[World]:
    settings = Settings(
        database_url=postgres_url,
        amqp_url=embedded_amqp_url,
        redis_url=redis_url,
        redis_prefix=redis_prefix,
        llm=LlmSettings(default_model="scripted"),
        actors=ActorSettings(standby_delay=0.1),
    )
    async with AsyncExitStack() as stack:
        engine = create_engine(postgres_url)
        stack.push_async_callback(engine.dispose)
        commands = await CommandClient.connect(embedded_amqp_url, "caller")
        stack.push_async_callback(commands.close)
        yield World(settings, engine, commands, stack)


async def test_a_command_is_answered_and_the_partition_has_its_owner(world: World) -> None:
    process = await world.process()
    assert (await world.accept(1)).run_id == "r1"
    assert await world.owner() == (process.app.process, 1)


async def test_acceptance_keeps_its_order_through_a_hand_over(world: World) -> None:
    first, stop = await world.stoppable()
    await world.accept(0)
    await world.process()
    commands: list[AcceptRun] = [accept(f"r{number}", text=f"n{number}") for number in range(1, 120)]
    for command in commands[:60]:
        await world.commands.tell(command)
    stopping = asyncio.create_task(stop())
    for command in commands[60:]:
        await world.commands.tell(command)
    await stopping

    async def all_there() -> bool:
        return len(await world.accepted()) == 120

    await until(all_there)
    assert await world.accepted() == [f"r{number}" for number in range(120)]
    assert (await world.owner())[0] != first.app.process
    assert await world.scalar("SELECT count(*) FROM processes WHERE id = :i", i=first.app.process) == 0


async def test_a_takeover_fences_the_former_owner_and_both_stay_useful(world: World) -> None:
    process = await world.process()
    await world.accept(1)
    async with world.engine.begin() as connection:
        await connection.execute(text("UPDATE partitions SET owner = 'another', partition_epoch = partition_epoch + 1"))
    await world.accept(2)
    assert await world.owner() == (process.app.process, 3)
    assert await world.accepted() == ["r1", "r2"]


async def test_commands_wait_in_order_for_a_database_that_is_away(
    world: World, tcp_proxy: Callable[[str], Awaitable[TcpProxy]], postgres_url: str
) -> None:
    proxy = await tcp_proxy(postgres_url)
    process = await world.process(database_url=SecretStr(proxy.url(postgres_url)))
    await proxy.refuse()
    for number in range(10):
        await world.commands.tell(accept(f"r{number}", text=f"n{number}"))
    await until(lambda: _true(process.app.owned == {PARTITION}))
    assert await world.owner() == (None, 0)
    await proxy.accept()

    async def all_there() -> bool:
        return len(await world.accepted()) == 10

    await until(all_there)
    assert await world.accepted() == [f"r{number}" for number in range(10)]


async def test_malformed_messages_are_set_aside_and_counted(world: World, embedded_amqp_url: str) -> None:
    process = await world.process()
    async with await aio_pika.connect(embedded_amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.SESSION_EXCHANGE, ensure=False)
        await exchange.publish(aio_pika.Message(b"{}", delivery_mode=2), str(PARTITION))
    await world.accept(1)

    async def counted() -> bool:
        await process.dead_letters.look()
        return process.dead_letters.count == 1

    await until(counted)


async def test_the_command_waits_for_its_services_and_ends_at_sigterm(
    postgres_url: str, redis_url: str, embedded_amqp_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    broker = await tcp_proxy(embedded_amqp_url)
    await broker.refuse()
    environment = {
        **os.environ,
        "CALLBOARD_DATABASE_URL": postgres_url,
        "CALLBOARD_REDIS_URL": redis_url,
        "CALLBOARD_REDIS_PREFIX": uuid.uuid4().hex,
        "CALLBOARD_AMQP_URL": broker.url(embedded_amqp_url),
        "CALLBOARD_LLM__DEFAULT_MODEL": "scripted",
    }
    argv = [sys.executable, "-m", "callboard_runtime.cli", "actors"]
    child = await asyncio.create_subprocess_exec(*argv, env=environment, stderr=subprocess.PIPE)
    assert child.stderr
    commands = await CommandClient.connect(embedded_amqp_url, "caller")
    try:
        await _line(child.stderr, "away")
        await broker.accept()
        await _line(child.stderr, "consuming")
        answer = await commands.send(accept("r1"), PATIENCE)
        assert isinstance(answer, RunAnswer)
        child.send_signal(signal.SIGTERM)
        await _line(child.stderr, "stopped")
        assert await asyncio.wait_for(child.wait(), PATIENCE) == 0
    finally:
        await commands.close()
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _line(stream: asyncio.StreamReader, part: str) -> None:
    """Read until a line contains `part`."""
    seen: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while line := (await stream.readline()).decode():
            seen.append(line)
            if part in line:
                return
    raise AssertionError(f"{part!r} was never said: {''.join(seen)}")


async def _true(value: object) -> object:
    return value
