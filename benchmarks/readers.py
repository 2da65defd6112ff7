"""Thousands of readers of event streams in one process, as cheap as sockets allow, and the sessions they read."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr
from sqlalchemy import insert

from benchmarks.world import Stack, token
from callboard_runtime.domain.ids import run_uuid, session_uuid, utcnow
from callboard_runtime.persistence import tables as t
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings

USER = "bench"
FRAME = b"\nid: "
BATCH = 500  # rows of one INSERT


@dataclass(frozen=True)
class OpenRun:
    """A run that an attempt holds, or held, with `logged` committed events of epoch 1."""

    session_id: uuid.UUID
    run_id: uuid.UUID
    thread_id: str
    client_run_id: str
    logged: int
    over: bool = False


def line(number: int) -> dict[str, object]:
    return {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": f"a few words, number {number} "}


async def open_runs(stack: Stack, count: int, logged: int = 1, *, over: bool = False) -> list[OpenRun]:
    """Runs under way, or `over`, each in a session of its own, as actors would have written them."""
    tag = uuid.uuid4().hex[:8]
    names = [(f"thread-{tag}-{number}", f"run-{tag}-{number}") for number in range(count)]
    runs = [
        OpenRun(session_uuid(USER, thread), run_uuid(USER, run), thread, run, logged, over) for thread, run in names
    ]
    engine = create_engine(Settings(database_url=SecretStr(stack.database)))
    for first in range(0, count, BATCH):
        await _insert(engine, runs[first : first + BATCH])
    await engine.dispose()
    return runs


async def _insert(engine: object, runs: Sequence[OpenRun]) -> None:
    async with engine.begin() as db:  # type: ignore[attr-defined]
        for table, rows in (
            (t.SessionRow, [_session(run) for run in runs]),
            (t.RunRow, [_run(run) for run in runs]),
            (t.RunLegRow, [_leg(run) for run in runs]),
            (t.RunAttemptRow, [_attempt(run) for run in runs]),
            (t.EventSegmentRow, [_segment(run) for run in runs]),
        ):
            await db.execute(insert(table), rows)


def _session(run: OpenRun) -> dict[str, object]:
    return {"id": run.session_id, "user_id": USER, "thread_id": run.thread_id, "log_epoch": 1, "log_seq": run.logged}


def _run(run: OpenRun) -> dict[str, object]:
    named = {"id": run.run_id, "user_id": USER, "client_run_id": run.client_run_id, "session_id": run.session_id}
    status, ended = ("succeeded", utcnow()) if run.over else ("running", None)
    about = {"agent_id": "chat", "digest": "d", "input": {}, "config": {}}
    return {**named, **about, "status": status, "ended_at": ended}


def _leg(run: OpenRun) -> dict[str, object]:
    named = {"run_id": run.run_id, "user_id": USER, "client_run_id": run.client_run_id}
    end = {"last_epoch": 1, "last_seq": run.logged, "ended_at": utcnow()} if run.over else {}
    return {**named, "leg": 1, "digest": "d", "first_epoch": 1, **end}


def _attempt(run: OpenRun) -> dict[str, object]:
    named = {"attempt_id": uuid.uuid4(), "run_id": run.run_id, "session_id": run.session_id}
    end = {"outcome": "finished", "ended_at": utcnow()} if run.over else {}
    return {**named, "leg": 1, "epoch": 1, "process": "bench", **end}


def _segment(run: OpenRun) -> dict[str, object]:
    started = {"type": "RUN_STARTED", "threadId": "t", "runId": run.client_run_id}
    events = [started, *(line(number) for number in range(1, run.logged))]
    place = {"session_id": run.session_id, "epoch": 1, "first_seq": 1, "last_seq": run.logged, "run_id": run.run_id}
    return {**place, "leg": 1, "lines": "\n".join(orjson.dumps(event).decode() for event in events)}


class Reader(asyncio.Protocol):
    """Counts the events of one stream. `wait(n)` ends when n have come since it was opened."""

    def __init__(self, request: bytes) -> None:
        self.count = 0
        self.done_at = 0.0
        self.status = b""
        self.lost = False
        self._request, self._tail = request, b""
        self._wanted = 0
        self._reached: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.answered: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        if not self.answered.done():
            self.status = data[9:12]
            self.answered.set_result(self.status)
        text = self._tail + data
        self.count += text.count(FRAME)
        self._tail = text[-len(FRAME) + 1 :]
        if self.count >= self._wanted and not self._reached.done():
            self.done_at = time.perf_counter()
            self._reached.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        for waited in (self._reached, self.answered):
            if not waited.done():
                waited.set_result(None)  # type: ignore[arg-type]

    async def wait(self, count: int) -> None:
        await self.expect(count)

    def expect(self, count: int) -> asyncio.Future[None]:
        """Done when so many events have come, at `done_at`, or never will."""
        self._wanted = count
        self._reached = asyncio.get_running_loop().create_future()
        if self.count >= count or self.lost:
            self._reached.set_result(None)
        return self._reached

    def close(self) -> None:
        self.transport.abort()  # type: ignore[attr-defined]


def request(stack: Stack, run: OpenRun, after: int | None = None) -> bytes:
    """A request for the run's stream; its frames are what `Reader` counts."""
    cursor = f"Last-Event-ID: 1-{after}\r\n" if after is not None else ""
    place = "" if after is not None else "?from=start"
    host = urlsplit(stack.url).netloc
    return (
        f"GET /api/v1/agent/runs/{run.client_run_id}/events{place} HTTP/1.1\r\nHost: {host}\r\n"
        f"Authorization: Bearer {token(USER)}\r\nAccept: text/event-stream\r\n{cursor}\r\n"
    ).encode()


async def connect(stack: Stack, requests: Sequence[bytes], *, at_once: int = 100) -> tuple[list[Reader], int]:
    """Open a stream for each request, so many at a time; returns them, and how often the front said 503.

    A reader that is refused comes back after a second, as the front asks it to.
    """
    address = urlsplit(stack.url)
    loop = asyncio.get_running_loop()
    gate = asyncio.Semaphore(at_once)
    refused = 0

    async def one(wanted: bytes) -> Reader:
        nonlocal refused
        while True:
            async with gate:
                _, reader = await loop.create_connection(lambda: Reader(wanted), address.hostname, address.port)
                status = await reader.answered
            if status == b"200":
                return reader
            reader.close()
            if status not in (b"503", None):
                raise RuntimeError(f"the front answered {status!r}")
            refused += 1
            await asyncio.sleep(1)

    return list(await asyncio.gather(*(one(each) for each in requests))), refused


async def all_reach(readers: Sequence[Reader], count: int, seconds: float = 60.0) -> int:
    """Wait until every reader has so many events; returns how many never got there."""
    try:
        async with asyncio.timeout(seconds):
            await asyncio.gather(*(reader.wait(count) for reader in readers))
    except TimeoutError:
        pass
    return sum(1 for reader in readers if reader.count < count)
