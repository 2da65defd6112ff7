"""A named queue: its messages, its consumers, and the loop that brings them together."""

from callboard_runtime.embedded.amqp.consumers import Consumer, ConsumerGroup
from callboard_runtime.embedded.amqp.options import QueueOptions
from callboard_runtime.embedded.amqp.queue_state import Dropped, MemoryGauge, QueueState


class Queue:
    """`owner` is the connection of an exclusive queue; once `deleted`, late acknowledgements change nothing."""

    def __init__(self, name: str, options: QueueOptions, owner: object | None, gauge: MemoryGauge, now: float) -> None:
        self.name = name
        self.options = options
        self.owner = owner
        self.state = QueueState(options, gauge)
        self.consumers = ConsumerGroup(single_active=options.single_active)
        self.deleted = False
        self._last_used = now

    @property
    def counts_returns(self) -> bool:
        return self.options.kind == "quorum"

    def touch(self, now: float) -> None:
        """Postpone `x-expires`."""
        self._last_used = now

    def dispatch(self, now: float) -> list[Dropped]:
        """Deliver while there are messages and consumers with room; returns what had expired instead."""
        dropped = self.state.expire(now)
        while len(self.state) and (consumer := self.consumers.next_ready()) is not None:
            self._hand_over(consumer)
            dropped += self.state.expire(now)
        return dropped

    def next_deadline(self) -> float | None:
        """When the queue needs attention without anybody asking: its head expires, or the queue itself does."""
        head = self.state.head()
        deadlines = [] if head is None or head.expires_at is None else [head.expires_at]
        if (unused_until := self._unused_until()) is not None:
            deadlines.append(unused_until)
        return min(deadlines, default=None)

    def is_unused(self, now: float) -> bool:
        until = self._unused_until()
        return until is not None and until <= now

    def _unused_until(self) -> float | None:
        if self.options.expires_ms is None or len(self.consumers):
            return None
        return self._last_used + self.options.expires_ms / 1000

    def _hand_over(self, consumer: Consumer) -> None:
        entry = self.state.take()
        if entry is not None:
            consumer.deliver(entry)
