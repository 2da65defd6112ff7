"""What a channel has delivered and not settled yet, by delivery tag."""

from typing import TYPE_CHECKING, NamedTuple

from callboard_runtime.embedded.amqp.errors import ChannelFault
from callboard_runtime.embedded.amqp.queue import Queue

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.consuming import Subscription


class Delivery(NamedTuple):
    """`subscription` is None for a message fetched with basic.get."""

    queue: Queue
    position: int
    subscription: "Subscription | None"


class Ledger:
    """Tags grow by one per delivery, also for those that need no acknowledgement."""

    def __init__(self) -> None:
        self._pending: dict[int, Delivery] = {}
        self._last_tag = 0

    def __len__(self) -> int:
        return len(self._pending)

    def next_tag(self) -> int:
        self._last_tag += 1
        return self._last_tag

    def record(self, delivery: Delivery) -> int:
        tag = self.next_tag()
        self._pending[tag] = delivery
        if delivery.subscription is not None:
            delivery.subscription.unacked += 1
        return tag

    def settle(self, tag: int, *, multiple: bool) -> list[Delivery]:
        """Remove one delivery, or all up to `tag` (0: all), oldest first; ChannelFault 406 for an unknown tag."""
        if multiple and tag == 0:
            return self.take_all()
        if tag not in self._pending:
            raise ChannelFault(406, f"unknown delivery tag {tag}")
        tags = [pending for pending in self._pending if pending <= tag] if multiple else [tag]
        return [self._remove(pending) for pending in tags]

    def take_all(self) -> list[Delivery]:
        return [self._remove(tag) for tag in list(self._pending)]

    def _remove(self, tag: int) -> Delivery:
        delivery = self._pending.pop(tag)
        if delivery.subscription is not None:
            delivery.subscription.unacked -= 1
        return delivery
