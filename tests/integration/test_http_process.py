"""`callboard http` as a process: what it imports, when it refuses to start, and how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from callboard_runtime.settings import Settings

from .http_harness import SECRET, Backstage, backstage, events, frames, headers, started

COMMAND = (sys.executable, "-m", "callboard_runtime.cli", "http", "--port", "0")


@pytest.fixture
async def stage(settings: Settings) -> AsyncIterator[Backstage]:
    async with backstage(settings) as hands:
        yield hands


def environment(settings: Settings | None = None, **more: str) -> dict[str, str]:
    found = {name: value for name, value in os.environ.items() if not name.startswith("CALLBOARD_")}
    if settings is not None:
        found |= {
            "CALLBOARD_DATABASE_URL": settings.required_database_url(),
            "CALLBOARD_AMQP_URL": settings.required_amqp_url(),
            "CALLBOARD_REDIS_URL": settings.required_redis_url(),
            "CALLBOARD_REDIS_PREFIX": settings.redis_prefix,
            "CALLBOARD_AUTH__JWT_SECRET": SECRET,
        }
    return found | {"CALLBOARD_ENV_FILE": ""} | more


@asynccontextmanager
async def running(settings: Settings, **more: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    process = await asyncio.create_subprocess_exec(
        *COMMAND, env=environment(settings, **more), stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(30):
            while found := (await process.stderr.readline()).decode():
                if address := re.search(r"http://[0-9.]+:\d+", found):
                    break
        assert found, "it ended before it listened"
        yield process, address.group()
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def refused(**more: str) -> str:
    process = await asyncio.create_subprocess_exec(*COMMAND, env=environment(**more), stderr=asyncio.subprocess.PIPE)
    _, said = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 2
    return said.decode()


async def test_a_reader_is_sent_elsewhere_at_sigterm_and_the_process_ends(settings: Settings, stage: Backstage):
    leg = await stage.add_run()
    await stage.begin(leg)
    async with running(settings) as (process, url), aiohttp.ClientSession(headers=headers()) as http:
        async with http.get(f"{url}/api/v1/agent/runs/r1/events?from=start") as response:
            assert await events(response, 1) == [("1-1", started())]
            process.send_signal(signal.SIGTERM)
            assert [frame[1] async for frame in frames(response)] == [b"retry: 1000"]
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_it_refuses_to_start_where_users_could_not_be_told_apart():
    services = {"CALLBOARD_DATABASE_URL": "postgresql://u@h/d", "CALLBOARD_AMQP_URL": "amqp://h"}
    said = await refused(**services)
    assert "CALLBOARD_AUTH__JWT_SECRET" in said
    assert "CALLBOARD_AUTH__JWT_PUBLIC_KEY" in said
    open_door = {"CALLBOARD_DEV_AUTH": "true", "CALLBOARD_HTTP__HOST": "0.0.0.0"}
    assert "CALLBOARD_DEV_AUTH" in await refused(**services, **open_door)
    assert "CALLBOARD_AMQP_URL" in await refused(CALLBOARD_DATABASE_URL="postgresql://u@h/d")


async def test_the_front_needs_no_crew_no_model_library_and_no_task_queue():
    code = (
        "import sys, callboard_http.app, callboard_http.cli;"
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'crewai', 'litellm', 'celery', 'faststream'}))"
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert said.strip() == b"[]"
