"""A run in progress while the broker or Redis goes away and comes back: it goes on, in the same attempt."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.persistence.database import create_engine
from integration.worker_processes import ENDED, WORKER_READY, accept, process, query, until_found, until_streamed
from services import RabbitServer, RedisServer

pytestmark = pytest.mark.timeout(400)


@pytest.fixture
def environment(postgres_url: str, private_rabbit: RabbitServer, private_redis: RedisServer) -> dict[str, str]:
    return {
        "CALLBOARD_DATABASE_URL": postgres_url.replace("+asyncpg", ""),
        "CALLBOARD_AMQP_URL": private_rabbit.url,
        "CALLBOARD_REDIS_URL": private_redis.url,
        "CALLBOARD_REDIS_PREFIX": f"outages-{uuid.uuid4().hex}",  # epochs begin anew with each database
        "CALLBOARD_ENV_FILE": "",
        "CALLBOARD_LLM__DEFAULT_MODEL": "scripted",
        "CALLBOARD_LLM__ALLOW_SCRIPTED": "true",
    }


@pytest.fixture
async def engine(environment: dict[str, str]) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(environment["CALLBOARD_DATABASE_URL"], pool=2)
    yield engine
    await engine.dispose()


async def test_a_broker_that_crashes_in_mid_run_repeats_nothing(
    environment: dict[str, str], engine: AsyncEngine, private_rabbit: RabbitServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with process("actors", environment, log), process("worker", environment, log, "--concurrency", "4"):
        client = await CommandClient.connect(environment["CALLBOARD_AMQP_URL"], "test")
        await until_found(engine, WORKER_READY)
        await accept(client, "r1", "count to 100 at 30 ms")
        await until_streamed(environment)
        await asyncio.to_thread(private_rabbit.kill)
        await asyncio.to_thread(private_rabbit.start)
        (run,) = await until_found(engine, ENDED, run="r1")
        assert run["status"] == "succeeded", log.read_text()
        assert len(await query(engine, "SELECT 1 FROM run_attempts")) == 1
        calls = await query(engine, "SELECT status FROM llm_calls")
        assert {call["status"] for call in calls} == {"recorded"}
        await accept(client, "r2", "hello")
        (run,) = await until_found(engine, ENDED, run="r2")
        assert run["status"] == "succeeded", "the worker is woken again after the outage"
        await client.close()


async def test_a_redis_that_crashes_in_mid_run_is_not_missed(
    environment: dict[str, str], engine: AsyncEngine, private_redis: RedisServer, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with process("actors", environment, log), process("worker", environment, log, "--concurrency", "4"):
        client = await CommandClient.connect(environment["CALLBOARD_AMQP_URL"], "test")
        await until_found(engine, WORKER_READY)
        await accept(client, "r1", "count to 200 at 30 ms")
        await until_streamed(environment)
        await asyncio.to_thread(private_redis.kill)
        await asyncio.to_thread(private_redis.start)
        await until_streamed(environment)  # the stream was begun again, after a commit
        (run,) = await until_found(engine, ENDED, run="r1")
        assert run["status"] == "succeeded", log.read_text()
        (message,) = await query(engine, "SELECT content FROM messages WHERE role = 'assistant'")
        assert message["content"].split()[-1] == "200"
        segments = await query(
            engine, "SELECT first_seq, last_seq FROM event_segments WHERE epoch = 1 ORDER BY first_seq"
        )
        assert [s["first_seq"] for s in segments] == [1, *(s["last_seq"] + 1 for s in segments[:-1])]
        await client.close()
