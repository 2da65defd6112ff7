"""The Celery worker of the contract tests, configured as the project's own: quorum queue, early acks, threads."""

import os
import threading

from celery import Celery
from kombu import Exchange, Queue

QUEUE = "runs"
DONE = "done"  # where tasks say what they did, on the default exchange

app = Celery("contract", broker=os.environ.get("CONTRACT_BROKER_URL", "amqp://"))
app.conf.update(
    task_queues=[Queue(QUEUE, Exchange(QUEUE), routing_key=QUEUE, queue_arguments={"x-queue-type": "quorum"})],
    task_default_queue=QUEUE,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    worker_hijack_root_logger=False,
    broker_heartbeat=10,
    broker_connection_retry_on_startup=True,
    broker_transport_options={"confirm_publish": True, "confirm_timeout": 5},
)


def _tell(text: str) -> None:
    with app.producer_or_acquire() as producer:
        producer.publish(text, routing_key=DONE, exchange="", serializer="raw", content_type="text/plain")


@app.task(name="contract.report")
def report(text: str) -> None:
    """Say `text`."""
    _tell(text)


@app.task(name="contract.hold")
def hold(text: str) -> None:
    """Say `text` and then never end."""
    _tell(text)
    threading.Event().wait()
