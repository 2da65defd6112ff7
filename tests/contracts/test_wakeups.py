"""Wake-ups on both brokers: published from asyncio, consumed by a Celery worker with threads."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import uuid
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path

import aio_pika
import pytest

from callboard_runtime.broker import topology
from callboard_runtime.broker.topology_setup import declare
from callboard_runtime.domain.ids import task_id
from callboard_runtime.entry.celery_app import bind, create_celery
from callboard_runtime.entry.wakeup import RESUME_TASK, RUN_TASK, wakeup_message
from callboard_runtime.settings import ActorSettings, Settings
from waiting import until

TESTS = Path(__file__).parents[1]
PATIENCE = 60.0  # seconds; a worker is a process that first imports much


class Worker:
    """A worker process, and the notes of what it was woken for."""

    def __init__(self, process: Process, notes: Path) -> None:
        self._process, self._notes = process, notes

    def seen(self) -> list[list[str]]:
        assert self._process.returncode is None, "the worker ended early"
        return sorted(line.split() for line in self._notes.read_text().splitlines()) if self._notes.exists() else []

    def kill(self) -> None:
        self._process.kill()

    def let_go(self) -> None:
        """Let the tasks end."""
        self._notes.with_suffix(".go").touch()


@pytest.fixture
async def worker(broker_url: str, tmp_path: Path) -> AsyncIterator[Worker]:
    """Woken tasks do not end before `let_go`."""
    notes = tmp_path / f"{uuid.uuid4().hex}.notes"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    argv = (sys.executable, "-m", "contracts.wakeup_worker", broker_url, str(notes))
    process = await asyncio.create_subprocess_exec(*argv, env=environment)
    worker = Worker(process, notes)
    try:
        yield worker
    finally:
        worker.let_go()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def wake(url: str, *wakeups: tuple[uuid.UUID, uuid.UUID, int]) -> None:
    """Publish as the outbox relay does."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel(on_return_raises=True)
        await declare(channel, Settings(actors=ActorSettings()))
        exchange = await channel.get_exchange(topology.WORKER_EXCHANGE)
        for ids in wakeups:
            await exchange.publish(wakeup_message(*ids), topology.WORKER_QUEUE)


async def test_a_worker_is_woken_with_ids_under_the_legs_task_id(broker_url: str, worker: Worker) -> None:
    session, run = uuid.uuid4(), uuid.uuid4()
    await wake(broker_url, (session, run, 1), (session, run, 2))
    await until(lambda: len(worker.seen()) == 2)
    assert worker.seen() == [
        [RESUME_TASK, task_id(run, 2), str(session), str(run), "2"],
        [RUN_TASK, task_id(run, 1), str(session), str(run), "1"],
    ]


async def test_a_wakeup_is_acknowledged_when_it_starts_not_when_it_ends(broker_url: str, worker: Worker) -> None:
    await wake(broker_url, (uuid.uuid4(), uuid.uuid4(), 1))
    await until(worker.seen)
    await until(lambda: asyncio.to_thread(_all_acknowledged, broker_url))
    # The task is held. With its connection, all that it had not acknowledged would come back.
    async with await aio_pika.connect(broker_url) as connection:
        worker.kill()
        channel = await connection.channel()
        await _until_without_consumer(channel)
        queue = await channel.declare_queue(topology.WORKER_QUEUE, passive=True)
        assert queue.declaration_result.message_count == 0


async def test_the_worker_may_start_before_the_actors_have_declared_anything(broker_url: str, worker: Worker) -> None:
    async with await aio_pika.connect(broker_url) as connection, asyncio.timeout(PATIENCE):
        await _until_declared(connection)
    await wake(broker_url, (uuid.uuid4(), uuid.uuid4(), 1))
    await until(worker.seen)


async def test_a_worker_declares_no_queues_for_delayed_tasks(broker_url: str, worker: Worker) -> None:
    await wake(broker_url, (uuid.uuid4(), uuid.uuid4(), 1))
    await until(worker.seen)
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        with pytest.raises(aio_pika.exceptions.ChannelNotFoundEntity):
            await channel.declare_queue("celery_delayed_0", passive=True)


def _all_acknowledged(url: str) -> bool:
    """Whether some worker says that it runs a task, and has acknowledged all that it runs."""
    app = create_celery()
    bind(app, Settings(amqp_url=url))
    try:
        active = app.control.inspect(limit=1, timeout=1).active() or {}
    finally:
        app.pool.force_close_all()
        app.close()
    tasks = [task for running in active.values() for task in running]
    return bool(tasks) and all(task["acknowledged"] for task in tasks)


async def _until_without_consumer(channel: aio_pika.abc.AbstractChannel) -> None:
    async def nobody_consumes() -> bool:
        queue = await channel.declare_queue(topology.WORKER_QUEUE, passive=True)
        return not queue.declaration_result.consumer_count

    await until(nobody_consumes, timeout=PATIENCE)


async def _until_declared(connection: aio_pika.abc.AbstractConnection) -> None:
    async def is_declared() -> bool:
        channel = await connection.channel()
        try:
            await channel.declare_queue(topology.WORKER_QUEUE, passive=True)
        except aio_pika.exceptions.ChannelNotFoundEntity:
            return False
        return True

    await until(is_declared, "the workers' queue", timeout=PATIENCE)
