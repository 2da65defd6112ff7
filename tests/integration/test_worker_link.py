"""A worker process between real actors, broker, database and Redis: what it is woken for, and how it leaves."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import CancelRun
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.entry.client import BlockingClient
from callboard_runtime.entry.run_command import RunCommand
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings
from integration.worker_processes import (
    ENDED,
    SESSION,
    SLOW,
    WORKER_READY,
    accept,
    process,
    query,
    until_found,
    until_streamed,
)

pytestmark = pytest.mark.timeout(300)


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


@pytest.fixture
async def client(settings: Settings) -> AsyncIterator[CommandClient]:
    commands = await CommandClient.connect(settings.required_amqp_url(), "test")
    yield commands
    await commands.close()


async def test_a_run_goes_from_enqueue_to_its_end(
    settings: Settings, environment: dict[str, str], engine: AsyncEngine, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with process("actors", environment, log), process("worker", environment, log, "--concurrency", "4") as worker:
        await until_found(engine, WORKER_READY)
        client = await asyncio.to_thread(BlockingClient, settings)
        command = RunCommand(user_id="u", thread_id="t", run_id="r1", message="hello")
        first = await asyncio.to_thread(client.send, command)
        assert await asyncio.to_thread(client.send, command) == first, "the same run has one answer"
        (run,) = await until_found(engine, ENDED, run="r1")
        assert (run["status"], run["error_message"]) == ("succeeded", None), log.read_text()
        (message,) = await query(engine, "SELECT * FROM messages WHERE role = 'assistant'")
        assert message["content"]
        segments = await query(engine, "SELECT * FROM event_segments ORDER BY epoch, first_seq")
        assert segments[-1]["closing"]
        await asyncio.to_thread(client.close)
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(worker.wait, 30) == 0, log.read_text()
        assert not await query(engine, "SELECT 1 FROM processes WHERE kind = 'worker'"), "it leaves the list itself"
    assert "Traceback" not in log.read_text()


async def test_a_cancelled_run_stops_its_stream_and_keeps_its_text(
    environment: dict[str, str], engine: AsyncEngine, client: CommandClient, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    with process("actors", environment, log), process("worker", environment, log, "--concurrency", "4"):
        await accept(client, "r1", SLOW)
        await until_streamed(environment)
        asked = CancelRun(session_id=SESSION, user_id="u", run_id="r1", not_after=utcnow() + timedelta(seconds=5))
        await client.send(asked, 5)
        (run,) = await until_found(engine, ENDED, run="r1")
        assert run["status"] == "cancelled", log.read_text()
        steps = await query(engine, "SELECT status FROM run_steps ORDER BY position")
        assert steps[-1]["status"] == "cancelled", "the worker ended it itself, in time"
        (call,) = await query(engine, "SELECT * FROM llm_calls WHERE status = 'cancelled'")
        assert call["estimated"]
        assert call["output_tokens"] > 0
        (message,) = await query(engine, "SELECT * FROM messages WHERE role = 'assistant'")
        assert message["content"].startswith("1")
    assert "Traceback" not in log.read_text()


async def test_a_worker_that_shuts_down_hands_its_run_to_another(
    environment: dict[str, str], engine: AsyncEngine, client: CommandClient, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    impatient = environment | {"CALLBOARD_WORKER__DRAIN": "0.2"}  # the answer takes longer than that
    with process("actors", environment, log), process("worker", impatient, log, "--concurrency", "4") as first:
        await accept(client, "r1", SLOW)
        await until_streamed(environment)
        with process("worker", environment, log, "--concurrency", "4"):
            await until_found(engine, WORKER_READY)
            first.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(first.wait, 30) == 0, log.read_text()
            attempts = await until_found(engine, "SELECT outcome FROM run_attempts WHERE epoch = 2")
            (released,) = await query(engine, "SELECT outcome FROM run_attempts WHERE epoch = 1")
            assert (released["outcome"], attempts[0]["outcome"]) == ("released", None)
            assert not await query(engine, "SELECT 1 FROM messages WHERE role = 'assistant'"), "half an answer is none"
            asked = CancelRun(session_id=SESSION, user_id="u", run_id="r1", not_after=utcnow() + timedelta(seconds=5))
            await client.send(asked, 5)
            await until_found(engine, ENDED, run="r1")
    assert "Traceback" not in log.read_text()


async def test_a_killed_workers_run_goes_on_in_another(
    environment: dict[str, str], engine: AsyncEngine, client: CommandClient, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    hasty = environment | {"CALLBOARD_ACTORS__SILENT_AFTER": "5"}
    with process("actors", hasty, log), process("worker", hasty, log, "--concurrency", "4") as first:
        await accept(client, "r1", "count to 60 at 50 ms")
        await until_streamed(environment)
        with process("worker", hasty, log, "--concurrency", "4"):
            await until_found(engine, f"{WORKER_READY} AND id NOT LIKE '%-{first.pid}-%'")
            first.kill()
            (run,) = await until_found(engine, ENDED, run="r1")
            assert run["status"] == "succeeded", log.read_text()
    (message,) = await query(engine, "SELECT content FROM messages WHERE role = 'assistant'")
    assert message["content"].split()[0] == "1"
    assert message["content"].split()[-1] == "60"
    calls = await query(engine, "SELECT stage, status FROM llm_calls ORDER BY begun_at")
    assert [call["status"] for call in calls] in (["recorded", "recorded"], ["recorded", "lost", "recorded"])
    assert "Traceback" not in log.read_text()
