"""A wake-up for a worker, as a Celery message that can be published from asyncio.

In:  the ids of a leg
Out: an aio-pika message for exchange WORKER_EXCHANGE, routing key WORKER_QUEUE
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

import aio_pika
from kombu import serialization

from callboard_runtime.domain.ids import task_id
from callboard_runtime.entry.celery_app import app
from callboard_runtime.observe.tracing import HEADER

RUN_TASK = "callboard.run_agent_task"
RESUME_TASK = "callboard.resume_agent_task"


def task_name(leg: int) -> str:
    """The task that runs this leg: a run's first leg starts it, every other resumes it."""
    return RUN_TASK if leg == 1 else RESUME_TASK


def wakeup_message(session_id: UUID, run_id: UUID, leg: int, traceparent: str | None = None) -> aio_pika.Message:
    """The wake-up of a leg: ids only, and the same task id however often it is sent; its trace is a header."""
    task, ids = task_id(run_id, leg), (str(session_id), str(run_id), str(leg))
    message = app.amqp.as_task_v2(task, task_name(leg), ids, {}, ignore_result=True)
    dumps: Any = serialization.dumps  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] - untyped
    content_type, encoding, body = dumps(message.body, "json")
    return aio_pika.Message(
        body.encode(),
        headers=message.headers | ({HEADER: traceparent} if traceparent else {}),
        correlation_id=task,
        content_type=content_type,
        content_encoding=encoding,
        delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
    )
