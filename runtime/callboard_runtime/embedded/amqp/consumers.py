"""Who gets the next message of a queue: round robin by priority, or the single active consumer."""

from typing import Protocol

from callboard_runtime.embedded.amqp.queue_state import Entry


class Consumer(Protocol):
    """A queue's view of a consumer; `deliver` must not call back into the queue."""

    @property
    def priority(self) -> int: ...

    @property
    def exclusive(self) -> bool: ...

    def can_take(self) -> bool: ...

    def deliver(self, entry: Entry) -> None: ...

    def queue_deleted(self) -> None: ...


class ConsumerGroup:
    """Consumers of one queue, in order of arrival.

    With a single active consumer the oldest one is active until it leaves; the others wait in line, whatever
    their priority.
    """

    def __init__(self, *, single_active: bool) -> None:
        self._single_active = single_active
        self._members: list[Consumer] = []

    def __len__(self) -> int:
        return len(self._members)

    @property
    def has_exclusive(self) -> bool:
        return any(member.exclusive for member in self._members)

    def add(self, consumer: Consumer) -> None:
        self._members.append(consumer)

    def remove(self, consumer: Consumer) -> None:
        if consumer in self._members:
            self._members.remove(consumer)

    def next_ready(self) -> Consumer | None:
        """The consumer that gets the next message now, None when nobody has room."""
        if self._single_active:
            active = self._members[0] if self._members else None
            return active if active is not None and active.can_take() else None
        chosen = self._best_ready()
        if chosen is not None and len(self._members) > 1:
            self._members.remove(chosen)
            self._members.append(chosen)
        return chosen

    def drain(self) -> list[Consumer]:
        members, self._members = self._members, []
        return members

    def _best_ready(self) -> Consumer | None:
        best: Consumer | None = None
        for member in self._members:
            if (best is None or member.priority > best.priority) and member.can_take():
                best = member
        return best
