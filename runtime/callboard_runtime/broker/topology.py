"""Names and arguments of everything Callboard declares on the broker, in one place.

A version suffix changes with the shape.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote
from uuid import UUID

from callboard_runtime.domain.ids import lane_of, partition_of

Arguments = dict[str, str | int | bool]

SESSION_EXCHANGE = "callboard.session.v1"  # direct, durable: commands, routed by partition
DEAD_EXCHANGE = "callboard.dead.v1"  # direct, durable
DEAD_QUEUE = "callboard.dead.v1"
LANE_EXCHANGE = "callboard.lane.v1"  # direct, durable: live event batches, routed by lane; messages are transient
CONTROL_EXCHANGE = "callboard.control.v1"  # direct, durable: to one worker process, routed by its id
WORKER_QUEUE = "callboard.worker.v1"  # Celery's queue of wake-ups
WORKER_EXCHANGE = "callboard.worker.v1"
EVENTS_EXCHANGE = "callboard.events.v1"  # topic, durable: what integrations are told of runs
INGRESS_EXCHANGE = "callboard.ingress"  # direct, durable: requests of integrations; routed by what they ask for
INGRESS_QUEUE = "callboard.ingress.v1"
INGRESS_KEYS = ("run", "resume", "cancel")


def partition_queue(partition: int) -> str:
    return f"callboard.session.{partition}.v1"


def partition_key(session_id: UUID) -> str:
    """The routing key of a session's commands."""
    return str(partition_of(session_id))


def lane_key(session_id: UUID) -> str:
    """The routing key of a session's live events."""
    return str(lane_of(session_id))


def control_queue(process: str) -> str:
    return f"callboard.control.{process}.v1"


def partition_arguments(delivery_limit: int, max_mailbox: int) -> Arguments:
    """One active consumer, in order; a poisonous command is set aside, a full queue refuses."""
    return {
        "x-queue-type": "quorum",
        "x-single-active-consumer": True,
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
        "x-dead-letter-routing-key": DEAD_QUEUE,
        "x-overflow": "reject-publish",
        "x-max-length": max_mailbox,
    }


def ingress_arguments(delivery_limit: int, max_waiting: int) -> Arguments:
    """Any front may consume; a message that kills fronts is set aside, a full queue refuses."""
    return {
        "x-queue-type": "quorum",
        "x-delivery-limit": delivery_limit,
        "x-dead-letter-exchange": DEAD_EXCHANGE,
        "x-dead-letter-routing-key": DEAD_QUEUE,
        "x-overflow": "reject-publish",
        "x-max-length": max_waiting,
    }


MAX_KEY_PART = 100  # bytes of one id in a routing key, which may have 255


def key_part(client_id: str) -> str:
    """A client's id as one word of a routing key: no dots, no wildcards, bounded.

    Letters, digits, `-` and `_` stay, every other byte becomes `%XX`; one that grows beyond 100 bytes becomes `~` and
    the first 40 hex digits of its SHA-256.
    """
    word = quote(client_id, safe="").replace(".", "%2E").replace("~", "%7E")
    return word if len(word) <= MAX_KEY_PART else f"~{hashlib.sha256(client_id.encode()).hexdigest()[:40]}"


def run_event_key(thread_id: str, run_id: str, name: str) -> str:
    """The routing key under which integrations are told of a run."""
    return f"session.{key_part(thread_id)}.run.{key_part(run_id)}.{name}"


WORKER_QUEUE_ARGUMENTS: Arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": DEAD_EXCHANGE}
# RabbitMQ 4 drops what is returned to a quorum queue 20 times, and every look at a dead letter returns it.
DEAD_QUEUE_ARGUMENTS: Arguments = {"x-queue-type": "quorum", "x-delivery-limit": 1_000_000_000}
FRONT_QUEUE_ARGUMENTS: Arguments = {"x-max-length": 20_000, "x-overflow": "drop-head"}

# Headers of a lane message: the reader decides by them without parsing the body, which is the batch's lines.
H_SESSION = "s"
H_RUN = "r"
H_LEG = "l"
H_EPOCH = "e"
H_FIRST = "f"
H_PREVIOUS = "p"  # id of the event before the first one, `<epoch>-<seq>`
H_CLOSING = "c"  # the last line ends the leg
H_TRACE = "t"  # the span that sent it, if it is traced

# Headers of a message that was set aside by a process of ours; the broker says the same in `x-death`.
H_DEAD_REASON = "callboard-reason"
H_DEAD_QUEUE = "callboard-queue"
H_DEAD_EXCHANGE = "callboard-exchange"
H_DEAD_KEY = "callboard-routing-key"
