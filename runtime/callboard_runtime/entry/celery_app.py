"""The Celery application: wake-ups come in over one quorum queue, are acknowledged early, and leave no result.

A wake-up that is lost, late or doubled changes nothing, so nothing is gained by a late acknowledgement; but a broker
restart would then start every running task a second time.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from celery import Celery
from kombu.entity import Exchange, Queue

from callboard_runtime.broker import topology
from callboard_runtime.settings import Settings

HEARTBEAT = 10  # seconds
CONFIRM_TIMEOUT = 5  # seconds

WORKER_QUEUE: Any = Queue(
    topology.WORKER_QUEUE,
    Exchange(topology.WORKER_EXCHANGE, type="direct", durable=True),
    routing_key=topology.WORKER_QUEUE,
    durable=True,
    queue_arguments=dict(topology.WORKER_QUEUE_ARGUMENTS),
)


def create_celery() -> Any:
    """The application without a broker; `bind` gives it one."""
    celery: Any = Celery(  # Celery comes without types
        "callboard", set_as_current=False
    )
    celery.conf.update(
        task_queues=(WORKER_QUEUE,),
        task_default_queue=topology.WORKER_QUEUE,
        task_default_exchange=topology.WORKER_EXCHANGE,
        task_default_exchange_type="direct",
        task_default_routing_key=topology.WORKER_QUEUE,
        task_create_missing_queues=False,
        task_serializer="json",
        accept_content=["json"],
        task_acks_late=False,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=False,
        task_send_sent_event=False,
        worker_send_task_events=False,
        worker_prefetch_multiplier=1,
        worker_pool="threads",
        worker_consumer="callboard_runtime.entry.celery_consumer:WakeupConsumer",
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=True,
        broker_heartbeat=HEARTBEAT,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options={"confirm_publish": True, "confirm_timeout": CONFIRM_TIMEOUT},
        enable_utc=True,
        timezone="UTC",
    )
    return celery


def bind(celery: Any, settings: Settings) -> None:
    """Give the application its broker; raises SettingsError when none is set."""
    url = settings.required_amqp_url()
    celery.conf.update(broker_url=kombu_url(url), broker_use_ssl=tls_options(url))


def kombu_url(url: str) -> str:
    """The URL for Celery, which takes the parameters of aio-pika's query for its own."""
    return urlunsplit(urlsplit(url)._replace(query="", fragment=""))


def tls_options(url: str) -> dict[str, Any] | None:
    """py-amqp's TLS options for an `amqps` URL with aio-pika's parameters (`cafile`, `certfile`, `keyfile`).

    The broker's certificate must be for the URL's host, unless `no_verify_ssl` says that nothing is verified.
    """
    parts = urlsplit(url)
    if parts.scheme != "amqps":
        return None
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    named = {"ca_certs": query.get("cafile"), "certfile": query.get("certfile"), "keyfile": query.get("keyfile")}
    if query.get("no_verify_ssl", "0") in ("0", "false", ""):
        # py-amqp looks at the certificate's name only when it is told one.
        checks = {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": parts.hostname}
    else:
        checks = {"cert_reqs": ssl.CERT_NONE}
    return checks | {name: value for name, value in named.items() if value}


app: Any = create_celery()
