"""The client of code without an event loop, while what it needs hangs: that is told in time, and as any outage is."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr
from sqlalchemy import text

from callboard_runtime.domain.commands import MAX_COMMAND_BYTES
from callboard_runtime.entry import client
from callboard_runtime.entry.client import BlockingClient
from callboard_runtime.entry.run_command import RunCommand
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import create_engine, transaction
from callboard_runtime.setting_sections import HttpSettings
from callboard_runtime.settings import Settings

LARGE = RunCommand(user_id="u", thread_id="t", run_id="r", message="x" * MAX_COMMAND_BYTES)
SMALL = RunCommand(user_id="u", thread_id="t", run_id="r", message="hello")


@pytest.fixture
async def sender(embedded_amqp_url: str, postgres_url: str) -> AsyncIterator[BlockingClient]:
    settings = Settings(
        amqp_url=SecretStr(embedded_amqp_url),
        database_url=SecretStr(postgres_url),
        http=HttpSettings(accept_timeout=0.2),
    )
    sender = await asyncio.to_thread(BlockingClient, settings)
    yield sender
    await asyncio.to_thread(sender.close)


async def test_a_database_that_does_not_take_a_large_command_is_unavailable(
    sender: BlockingClient, postgres_url: str
) -> None:
    async with transaction(create_engine(postgres_url, pool=0)) as connection:
        await connection.execute(text("LOCK TABLE command_claims"))
        with pytest.raises(Unavailable, match="the database did not take the command in time"):
            await asyncio.to_thread(sender.send, LARGE)


async def test_a_loop_that_hangs_is_unavailable(sender: BlockingClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SPARE", 0.0)
    resume = threading.Event()
    sender._thread.loop.call_soon_threadsafe(resume.wait)
    try:
        with pytest.raises(Unavailable, match="not sent in time"):
            await asyncio.to_thread(sender.send, SMALL)
    finally:
        resume.set()
        monkeypatch.undo()
