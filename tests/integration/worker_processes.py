"""Actors and workers as processes of their own, and ways to see what they do."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import RunAnswer
from callboard_runtime.domain.event_batch import ORIGIN
from callboard_runtime.domain.ids import session_uuid
from callboard_runtime.entry.run_command import RunCommand
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import connect
from callboard_runtime.stream.tail import TailStore
from waiting import until

PATIENCE = 90.0  # seconds before a wait counts as failed: a worker imports CrewAI first

SESSION = session_uuid("u", "t")
SLOW = "count to 2000 at 50 ms"


async def until_streamed(environment: Mapping[str, str]) -> None:
    """Wait until some of the answer is in Redis."""
    tail = TailStore.from_url(environment["CALLBOARD_REDIS_URL"], environment["CALLBOARD_REDIS_PREFIX"])

    async def streamed() -> bool:
        batch = await tail.read(SESSION, ORIGIN, 1)
        return batch is not None and any("TEXT_MESSAGE_CONTENT" in line for line in batch.lines)

    await until(streamed, "some text in Redis", timeout=PATIENCE)
    await tail.close()


async def accept(client: CommandClient, run_id: str, message: str) -> RunAnswer:
    """Have a run accepted, as a front does."""
    command = RunCommand(user_id="u", thread_id="t", run_id=run_id, message=message)
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                answer = await client.send(command.accept(5), 5)
            except Unavailable:
                await asyncio.sleep(0.1)
            else:
                assert isinstance(answer, RunAnswer)
                return answer


WORKER_READY = "SELECT id FROM processes WHERE kind = 'worker' AND slots = 4"
ENDED = "SELECT * FROM runs WHERE client_run_id = :run AND ended_at IS NOT NULL"


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


async def until_found(engine: AsyncEngine, sql: str, **values: object) -> list[Mapping[str, Any]]:
    """Wait until a query finds something."""
    return await until(lambda: query(engine, sql, **values), sql, timeout=PATIENCE)
