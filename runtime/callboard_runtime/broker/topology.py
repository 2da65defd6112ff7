"""Names and arguments of everything Callboard declares on the broker, in one place. A version suffix changes with the shape."""

from __future__ import annotations

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


WORKER_QUEUE_ARGUMENTS: Arguments = {"x-queue-type": "quorum", "x-dead-letter-exchange": DEAD_EXCHANGE}
DEAD_QUEUE_ARGUMENTS: Arguments = {"x-queue-type": "quorum"}
FRONT_QUEUE_ARGUMENTS: Arguments = {"x-max-length": 20_000, "x-overflow": "drop-head"}

# Headers of a lane message: the reader decides by them without parsing the body, which is the batch's lines.
H_SESSION = "s"
H_RUN = "r"
H_LEG = "l"
H_EPOCH = "e"
H_FIRST = "f"
H_PREVIOUS = "p"  # id of the event before the first one, `<epoch>-<seq>`
H_CLOSING = "c"  # the last line ends the leg
