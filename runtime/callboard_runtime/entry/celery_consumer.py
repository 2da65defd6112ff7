"""Celery's consumer without delayed delivery: no task has a countdown, and it would declare 28 queues."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

_LEFT_OUT = "celery.worker.consumer.delayed_delivery:DelayedDelivery"


class WakeupConsumer(Consumer):
    """Consumes wake-ups from the quorum queue."""

    class Blueprint(Consumer.Blueprint):
        default_steps: Any = [step for step in Consumer.Blueprint.default_steps if step != _LEFT_OUT]  # noqa: RUF012
