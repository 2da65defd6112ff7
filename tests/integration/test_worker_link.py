"""A worker process between real actors, broker, database and Redis: what it is woken for, and how it leaves."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.entry.client import BlockingClient
from callboard_runtime.entry.run_command import RunCommand
from callboard_runtime.persistence.database import connect, create_engine
from callboard_runtime.settings import Settings

PATIENCE = 90.0  # seconds before a wait counts as failed: the worker imports CrewAI first


@pytest.fixture
def environment(postgres_url: str, rabbitmq_vhost_url: str, redis_url: str, redis_prefix: str) -> dict[str, str]:
    return {
        "CALLBOARD_DATABASE_URL": postgres_url.replace("+asyncpg", ""),
        "CALLBOARD_AMQP_URL": rabbitmq_vhost_url,
        "CALLBOARD_REDIS_URL": redis_url,
        "CALLBOARD_REDIS_PREFIX": redis_prefix,
        "CALLBOARD_ENV_FILE": "",
        "CALLBOARD_LLM__DEFAULT_MODEL": "scripted",
        "CALLBOARD_LLM__ALLOW_SCRIPTED": "true",
    }


@pytest.fixture
def settings(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings()


@pytest.fixture
async def engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(settings, pool=2)
    yield engine
    await engine.dispose()


@contextmanager
def process(
    command: str, environment: Mapping[str, str], log: Path, *options: str
) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as sink:
        argv = [sys.executable, "-m", "callboard_runtime.cli", command, *options]
        child = subprocess.Popen(argv, env={**os.environ, **environment}, stdout=sink, stderr=sink)
        try:
            yield child
        finally:
            child.kill()
            child.wait()


async def query(engine: AsyncEngine, sql: str, **values: object) -> list[Mapping[str, Any]]:
    async with connect(engine) as connection:
        return [dict(row) for row in (await connection.execute(text(sql), values)).mappings()]


async def until(engine: AsyncEngine, sql: str, **values: object) -> list[Mapping[str, Any]]:
    """Wait until a query finds something."""
    async with asyncio.timeout(PATIENCE):
        while not (rows := await query(engine, sql, **values)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return rows


async def test_a_run_goes_from_enqueue_to_its_end(
    settings: Settings, environment: dict[str, str], engine: AsyncEngine, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with process("actors", environment, log), process("worker", environment, log, "--concurrency", "4") as worker:
        await until(engine, "SELECT 1 FROM processes WHERE kind = 'worker' AND slots = 4")
        client = await asyncio.to_thread(BlockingClient, settings)
        command = RunCommand(user_id="u", thread_id="t", run_id="r1", message="hello")
        first = await asyncio.to_thread(client.send, command)
        assert await asyncio.to_thread(client.send, command) == first, "the same run has one answer"
        (run,) = await until(engine, "SELECT * FROM runs WHERE status IN ('succeeded', 'failed')")
        assert (run["status"], run["error_message"]) == ("succeeded", None), log.read_text()
        (message,) = await query(engine, "SELECT * FROM messages WHERE role = 'assistant'")
        assert message["content"]
        segments = await query(engine, "SELECT * FROM event_segments ORDER BY epoch, first_seq")
        assert segments[-1]["closing"]
        await asyncio.to_thread(client.close)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 30) == 0, log.read_text()
        assert not await query(engine, "SELECT 1 FROM processes WHERE kind = 'worker'"), "it leaves the list itself"
    print(log.read_text())
    assert "Traceback" not in log.read_text()


def _unique() -> str:
    return uuid.uuid4().hex
