"""One virtual host: its exchanges and queues, and the way of a message through them."""

import logging
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Protocol

from callboard_runtime.embedded.amqp import deadletter
from callboard_runtime.embedded.amqp.errors import ChannelFault, ConnectionFault, not_found
from callboard_runtime.embedded.amqp.exchange import TABLES, Binding, Exchange, ExchangeOptions
from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.options import QueueOptions
from callboard_runtime.embedded.amqp.queue import Queue
from callboard_runtime.embedded.amqp.queue_state import Dropped, MemoryGauge

logger = logging.getLogger(__name__)

_PREDECLARED = {
    "": "direct",
    "amq.direct": "direct",
    "amq.fanout": "fanout",
    "amq.topic": "topic",
    "amq.headers": "headers",
    "amq.match": "headers",
}


class Outcome(Enum):
    ACCEPTED = "accepted"
    UNROUTED = "unrouted"
    REJECTED = "rejected"  # at least one queue was full and refuses publishers


class Timers(Protocol):
    """Calls `VirtualHost.attend(queue)` at `queue.next_deadline()`."""

    def arm(self, vhost: "VirtualHost", queue: Queue) -> None: ...

    def disarm(self, queue: Queue) -> None: ...


class VirtualHost:
    """Names are unique per virtual host; nothing leads from one to another."""

    def __init__(self, name: str, gauge: MemoryGauge, clock: Callable[[], float], timers: Timers) -> None:
        self.name = name
        self.queues: dict[str, Queue] = {}
        self.exchanges = {
            exchange: Exchange(exchange, ExchangeOptions(kind, durable=True)) for exchange, kind in _PREDECLARED.items()
        }
        self._gauge = gauge
        self._clock = clock
        self._timers = timers
        self._dead: deque[tuple[Queue, Dropped]] = deque()
        self._burying = False

    # Exchanges

    def exchange(self, name: str) -> Exchange:
        """Raises ChannelFault 404."""
        found = self.exchanges.get(name)
        if found is None:
            raise not_found("exchange", name, self.name)
        return found

    def declare_exchange(self, name: str, options: ExchangeOptions) -> None:
        """Raises ChannelFault 406 when it exists with other properties, 403 for a reserved name."""
        found = self.exchanges.get(name)
        if found is not None:
            if found.options != options:
                raise ChannelFault(406, f"inequivalent properties for exchange '{name}' in vhost '{self.name}'")
            return
        if options.kind not in TABLES:
            raise ConnectionFault(503, f"unknown exchange type '{options.kind}'")
        _refuse_reserved("exchange", name)
        self.exchanges[name] = Exchange(name, options)

    def delete_exchange(self, name: str, *, if_unused: bool = False) -> None:
        """Deleting what is not there succeeds."""
        if name in _PREDECLARED:
            raise ChannelFault(403, f"exchange '{name}' is part of the broker and cannot be deleted")
        found = self.exchanges.get(name)
        if found is None:
            return
        if if_unused and found.is_bound:
            raise ChannelFault(406, f"exchange '{name}' in vhost '{self.name}' in use")
        del self.exchanges[name]
        self._forget_destination(found)

    def bind(self, source: str, binding: Binding) -> None:
        if source == "":
            raise ChannelFault(403, "the default exchange cannot be bound")
        self.exchange(source).bind(binding)

    def unbind(self, source: str, binding: Binding) -> None:
        exchange = self.exchanges.get(source)
        if exchange is not None and exchange.unbind(binding):
            self._delete_unbound(exchange)

    # Queues

    def queue(self, name: str, connection: object) -> Queue:
        """Raises ChannelFault 404, or 405 when it is another connection's exclusive queue."""
        found = self.queues.get(name)
        if found is None:
            raise not_found("queue", name, self.name)
        if found.owner is not None and found.owner is not connection:
            raise ChannelFault(405, f"cannot obtain exclusive access to locked queue '{name}' in vhost '{self.name}'")
        found.touch(self._clock())
        return found

    def declare_queue(self, name: str, options: QueueOptions, connection: object) -> Queue:
        """Raises ChannelFault 406 when it exists with other arguments, 405 when locked, 403 for a reserved name."""
        if name in self.queues:
            queue = self.queue(name, connection)
            if (argument := queue.options.difference(options)) is not None:
                raise ChannelFault(406, f"inequivalent arg '{argument}' for queue '{name}' in vhost '{self.name}'")
            return queue
        _refuse_reserved("queue", name)
        name = name or f"amq.gen-{secrets.token_urlsafe(16)}"
        queue = Queue(name, options, connection if options.exclusive else None, self._gauge, self._clock())
        self.queues[name] = queue
        self._timers.arm(self, queue)
        return queue

    def delete_queue(self, queue: Queue) -> int:
        """Returns the number of ready messages that went with it; its consumers are told."""
        del self.queues[queue.name]
        queue.deleted = True
        self._timers.disarm(queue)
        self._forget_destination(queue)
        for consumer in queue.consumers.drain():
            consumer.queue_deleted()
        return queue.state.clear()

    def consumer_left(self, queue: Queue) -> None:
        """Delete an auto-delete queue after its last consumer, else give its messages to the others."""
        queue.touch(self._clock())
        if queue.options.auto_delete and not len(queue.consumers):
            self.discard_queue(queue)
        else:
            self.dispatch(queue)

    def discard_queue(self, queue: Queue) -> None:
        if not queue.deleted:
            self.delete_queue(queue)

    # Messages

    def publish(self, message: Message) -> Outcome:
        """Route and deliver as far as consumers have room. Raises ChannelFault 404 for an unknown exchange."""
        queues = self._route(self.exchange(message.exchange), message)
        if not queues:
            return Outcome.UNROUTED
        accepted = [self._enqueue(queue, message) for queue in queues]
        return Outcome.ACCEPTED if all(accepted) else Outcome.REJECTED

    def dispatch(self, queue: Queue) -> None:
        if not queue.deleted:
            self.bury(queue, queue.dispatch(self._clock()))
            self._timers.arm(self, queue)

    def requeue(self, queue: Queue, positions: Iterable[int]) -> None:
        """Put deliveries back at their old places, without delivering yet."""
        if not queue.deleted:
            self.bury(queue, queue.state.requeue(sorted(positions)))
            self.bury(queue, queue.state.trim())

    def bury(self, queue: Queue, dropped: list[Dropped]) -> None:
        """Dead-letter what a queue dropped. A loop, not a recursion: one death may cause the next."""
        if queue.options.dead_letter_exchange is not None:
            self._dead.extend((queue, drop) for drop in dropped)
        if self._burying:
            return
        self._burying = True
        try:
            while self._dead:
                self._bury_one(*self._dead.popleft())
        finally:
            self._burying = False

    def attend(self, queue: Queue) -> None:
        """Expire the queue's messages, or the queue itself, when their time has come."""
        if queue.is_unused(self._clock()):
            logger.info("queue %s expired unused", queue.name, extra={"action": "amqp_queue_expired"})
            self.discard_queue(queue)
        else:
            self.dispatch(queue)

    def _enqueue(self, queue: Queue, message: Message) -> bool:
        if not queue.state.offer(message, self._clock()):
            if queue.options.overflow == "reject-publish-dlx":
                self.bury(queue, [Dropped(message, "maxlen")])
            return False
        self.dispatch(queue)
        self.bury(queue, queue.state.trim())
        return True

    def _route(self, exchange: Exchange, message: Message) -> dict[Queue, None]:
        if exchange.name == "":
            queue = self.queues.get(message.routing_key)
            return {} if queue is None else {queue: None}
        found: dict[Queue, None] = {}
        seen = {exchange}
        waiting = [exchange]
        while waiting:
            destinations = self._destinations(waiting.pop(), message)
            found |= {target: None for target in destinations if isinstance(target, Queue)}
            fresh = [target for target in destinations if isinstance(target, Exchange) and target not in seen]
            seen.update(fresh)
            waiting += fresh
        return found

    def _destinations(self, exchange: Exchange, message: Message) -> list[Queue | Exchange]:
        targets = [binding.destination for binding in exchange.match(message.routing_key, message.headers)]
        alternate = exchange.options.alternate
        if not targets and alternate is not None and alternate in self.exchanges:
            return [self.exchanges[alternate]]
        return targets

    def _bury_one(self, queue: Queue, dropped: Dropped) -> None:
        exchange = self.exchanges.get(queue.options.dead_letter_exchange or "")
        if exchange is None:
            return
        message = deadletter.dead_letter(dropped, queue.name, exchange.name, queue.options.dead_letter_routing_key)
        for target in self._route(exchange, message):
            if not deadletter.circles_back(message, target.name):
                self._enqueue(target, message)

    def _forget_destination(self, destination: Queue | Exchange) -> None:
        for exchange in list(self.exchanges.values()):
            if exchange.forget(destination):
                self._delete_unbound(exchange)

    def _delete_unbound(self, exchange: Exchange) -> None:
        if exchange.options.auto_delete and not exchange.is_bound and exchange.name in self.exchanges:
            self.delete_exchange(exchange.name)


def _refuse_reserved(kind: str, name: str) -> None:
    if name.startswith("amq."):
        raise ChannelFault(403, f"{kind} name '{name}' contains reserved prefix 'amq.*'")
