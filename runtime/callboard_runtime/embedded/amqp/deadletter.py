"""What a message looks like after it was dead-lettered: new address, and its history in `x-death`."""

from datetime import UTC, datetime

from pamqp import common

from callboard_runtime.embedded.amqp import properties
from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.properties import Field
from callboard_runtime.embedded.amqp.queue_state import Dropped


def dead_letter(dropped: Dropped, queue: str, exchange: str, routing_key: str | None) -> Message:
    """The message to publish to the dead-letter exchange; its own expiration is gone, so that it stays there."""
    old = dropped.message
    history = deaths(old)
    known = next((death for death in history if _same(death, queue, dropped.reason)), None)
    if known is None:
        latest = _first_death(dropped, queue)
    else:
        history.remove(known)
        latest = {**known, "count": _count(known) + 1}
    changes: common.FieldTable = {"x-death": [latest, *history]}
    if "x-first-death-queue" not in old.headers():
        changes |= {
            "x-first-death-queue": queue,
            "x-first-death-reason": dropped.reason,
            "x-first-death-exchange": old.exchange,
        }
    raw = properties.with_text(properties.with_headers(old.properties, changes), Field.EXPIRATION, None)
    return Message.create(exchange, old.routing_key if routing_key is None else routing_key, raw, old.body)


def circles_back(message: Message, queue: str) -> bool:
    """Whether a dead-lettered message returns to a queue that it already left without anybody rejecting it."""
    history = deaths(message)
    return any(death.get("queue") == queue for death in history) and all(
        death.get("reason") != "rejected" for death in history
    )


def deaths(message: Message) -> list[common.FieldTable]:
    """The `x-death` entries, newest first; a publisher's nonsense under that name counts as none."""
    found = message.headers().get("x-death") if properties.has(message.properties, Field.HEADERS) else None
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def _first_death(dropped: Dropped, queue: str) -> common.FieldTable:
    death: common.FieldTable = {
        "count": 1,
        "reason": dropped.reason,
        "queue": queue,
        "time": datetime.now(UTC),
        "exchange": dropped.message.exchange,
        "routing-keys": [dropped.message.routing_key],
    }
    if (expiration := properties.text(dropped.message.properties, Field.EXPIRATION)) is not None:
        death["original-expiration"] = expiration
    return death


def _same(death: common.FieldTable, queue: str, reason: str) -> bool:
    return death.get("queue") == queue and death.get("reason") == reason


def _count(death: common.FieldTable) -> int:
    count = death.get("count")
    return count if isinstance(count, int) else 0
