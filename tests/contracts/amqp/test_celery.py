"""A real Celery worker process: its queue, its remote control, and messages that asyncio code published for it."""

import asyncio
import os
import sys
import uuid
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aio_pika import DeliveryMode, Message
from aio_pika.abc import AbstractChannel
from celery import Celery
from kombu.serialization import dumps

from contracts.amqp import celery_app
from contracts.amqp.support import PATIENCE, Inbox, inbox_of, ready_count
from waiting import until

TESTS = Path(__file__).parents[2]
STARTUP = 60.0  # seconds; the machine may be busy


class Worker:
    def __init__(self, process: Process, name: str, app: Celery) -> None:
        self.process = process
        self.name = name
        self.app = app

    async def ask(self, command: str, *, patience: float = PATIENCE, **arguments: Any) -> Any:
        """Broadcast a remote control command to this worker alone and return its replies."""
        return await asyncio.to_thread(
            self.app.control.broadcast,
            command,
            arguments=arguments,
            destination=[self.name],
            reply=True,
            limit=1,
            timeout=patience,
        )

    async def answers(self) -> bool:
        assert self.process.returncode is None, "the worker ended early"
        return bool(await self.ask("ping", patience=0.5))


@pytest.fixture
async def done(channel: AbstractChannel) -> Inbox:
    """What the worker's tasks said."""
    return await inbox_of(await channel.declare_queue(celery_app.DONE), no_ack=True)


@pytest.fixture
async def worker(broker_url: str) -> AsyncIterator[Worker]:
    name = f"contract-{uuid.uuid4().hex[:8]}@here"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "celery", "-A", "contracts.amqp.celery_app", "worker"),
        *("-P", "threads", "-c", "2", "-n", name, "-l", "WARNING", "--without-gossip", "--without-mingle"),
        cwd=TESTS,
        env={**os.environ, "CONTRACT_BROKER_URL": broker_url, "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])},
    )
    app = Celery("caller", broker=broker_url, set_as_current=False)
    app.conf.update(celery_app.app.conf.changes)
    app.conf.broker_url = broker_url
    worker = Worker(process, name, app)
    try:
        async with asyncio.timeout(STARTUP):
            while not await worker.answers():
                pass
        yield worker
    finally:
        await _end(process)
        await asyncio.to_thread(app.pool.force_close_all)
        app.close()


async def test_task_published_by_aio_pika_is_executed(worker: Worker, channel: AbstractChannel, done: Inbox) -> None:
    for number in range(20):
        await _publish(worker.app, channel, "contract.report", f"run-{number}")
    said = {message.body.decode() for message in await done.take(20)}
    assert said == {f"run-{number}" for number in range(20)}


async def test_task_sent_by_celery_with_confirms_is_executed(worker: Worker, done: Inbox) -> None:
    await asyncio.to_thread(worker.app.send_task, "contract.report", ["sent"])
    assert (await done.one()).body == b"sent"


async def test_revoked_task_is_not_executed(worker: Worker, channel: AbstractChannel, done: Inbox) -> None:
    revoked = str(uuid.uuid4())
    replies = await worker.ask("revoke", task_id=revoked)
    assert [list(reply) for reply in replies] == [[worker.name]]
    await _publish(worker.app, channel, "contract.report", "revoked", task_id=revoked)
    await _publish(worker.app, channel, "contract.report", "kept")
    assert (await done.one()).body == b"kept"
    assert len(done.seen) == 1


async def test_early_acknowledgement_a_killed_worker_leaves_only_what_it_had_not_begun(
    worker: Worker, channel: AbstractChannel, done: Inbox
) -> None:
    """Two threads, prefetch two: four messages can only all be out when the two that began are acknowledged."""
    for number in range(4):
        await _publish(worker.app, channel, "contract.hold", f"task-{number}")
    assert {message.body for message in await done.take(2)} == {b"task-0", b"task-1"}

    async def ready(count: int) -> bool:
        return await ready_count(channel, celery_app.QUEUE) == count

    await until(lambda: ready(0))
    worker.process.kill()
    await worker.process.wait()
    await until(lambda: ready(2))


async def test_worker_ends_cleanly_on_sigterm(worker: Worker, channel: AbstractChannel, done: Inbox) -> None:
    await _publish(worker.app, channel, "contract.report", "last")
    assert (await done.one()).body == b"last"
    worker.process.terminate()
    async with asyncio.timeout(PATIENCE):
        assert await worker.process.wait() == 0


async def _publish(app: Celery, channel: AbstractChannel, task: str, text: str, *, task_id: str | None = None) -> None:
    """As the outbox relay does it: Celery's own message, sent by aio-pika."""
    task_id = task_id or str(uuid.uuid4())
    message = app.amqp.as_task_v2(task_id, task, args=[text])
    content_type, encoding, body = dumps(message.body, "json")
    await channel.default_exchange.publish(
        Message(
            body.encode() if isinstance(body, str) else body,
            headers=message.headers,
            correlation_id=task_id,
            content_type=content_type,
            content_encoding=encoding,
            delivery_mode=DeliveryMode.PERSISTENT,
        ),
        celery_app.QUEUE,
        mandatory=True,
    )


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
