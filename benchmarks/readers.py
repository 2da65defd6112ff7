"""Sessions for readers of event streams, as actors would have written them, and requests for their streams."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import orjson
from pydantic import SecretStr
from sqlalchemy import insert

from benchmarks.world import Stack, token
from callboard_runtime.domain.ids import run_uuid, session_uuid, utcnow
from callboard_runtime.persistence import tables as t
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings
from listeners import request

USER = "bench"
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


def stream_of(stack: Stack, run: OpenRun, after: int = 0) -> bytes:
    """A request for the run's stream from its beginning, or for what follows event `after`."""
    place = "" if after else "?from=start"
    return request(stack.url, f"/api/v1/agent/runs/{run.client_run_id}/events{place}", token(USER), after=after)
