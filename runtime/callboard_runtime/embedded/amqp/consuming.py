"""The consuming half of a channel: consume, cancel, get, qos, ack, nack, reject and recover."""

import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pamqp import base, commands

from callboard_runtime.embedded.amqp import properties, wire
from callboard_runtime.embedded.amqp.errors import ChannelFault, ConnectionFault
from callboard_runtime.embedded.amqp.ledger import Delivery
from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.publishing import REPLY_TO
from callboard_runtime.embedded.amqp.queue import Queue
from callboard_runtime.embedded.amqp.queue_state import Entry

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.channel import Channel


class Subscription:
    """One consumer of one queue; takes no message while its connection's write buffer is above the high-water mark."""

    def __init__(self, channel: "Channel", queue: Queue, method: commands.Basic.Consume) -> None:
        self.tag = method.consumer_tag or f"amq.ctag-{secrets.token_urlsafe(16)}"
        self.queue = queue
        self.exclusive = method.exclusive
        self.priority = _priority(method)
        self.unacked = 0
        self._no_ack = method.no_ack
        self._prefetch = channel.prefetch
        self._channel = channel
        self._encoded_tag = wire.short_string(self.tag)

    def can_take(self) -> bool:
        if not self._channel.connection.writable:
            return False
        if self._no_ack:
            return True
        return (not self._prefetch or self.unacked < self._prefetch) and self._channel.has_room()

    def deliver(self, entry: Entry) -> None:
        tag = hand_out(self._channel, self.queue, entry, self, no_ack=self._no_ack)
        number, address = self._channel.number, entry.message.address
        method = wire.encode_deliver(number, self._encoded_tag, tag, entry.returns > 0, address)
        self._channel.send_content(method, outgoing(self.queue, entry))

    def queue_deleted(self) -> None:
        self._channel.subscriptions.pop(self.tag, None)
        if self._channel.connection.wants_cancel_notify:
            self._channel.send(commands.Basic.Cancel(self.tag, nowait=True))


def hand_out(channel: "Channel", queue: Queue, entry: Entry, to: Subscription | None, *, no_ack: bool) -> int:
    """The delivery tag; without acknowledgements the queue forgets the message at once."""
    if no_ack:
        queue.state.ack(entry.position)
        return channel.ledger.next_tag()
    return channel.ledger.record(Delivery(queue, entry.position, to))


def outgoing(queue: Queue, entry: Entry) -> Message:
    if not entry.returns or not queue.counts_returns:
        return entry.message
    raw = properties.with_headers(entry.message.properties, {"x-delivery-count": entry.returns})
    return entry.message.with_properties(raw)


def qos(channel: "Channel", method: commands.Basic.Qos) -> None:
    if method.prefetch_size:
        raise ConnectionFault(540, "prefetch_size is not implemented; use prefetch_count")
    if method.global_:
        channel.global_prefetch = method.prefetch_count
        channel.resume()
    else:
        channel.prefetch = method.prefetch_count
    channel.send(commands.Basic.QosOk())


def consume(channel: "Channel", method: commands.Basic.Consume) -> None:
    if method.consumer_tag and method.consumer_tag in channel.subscriptions:
        raise ConnectionFault(530, f"attempt to reuse consumer tag '{method.consumer_tag}'")
    if method.queue == REPLY_TO:
        _consume_replies(channel, method)
        return
    queue = channel.queue(method.queue)
    if queue.consumers.has_exclusive or (method.exclusive and len(queue.consumers)):
        raise ChannelFault(403, f"queue '{queue.name}' in vhost '{channel.vhost.name}' in exclusive use")
    subscription = Subscription(channel, queue, method)
    channel.subscriptions[subscription.tag] = subscription
    channel.reply(commands.Basic.ConsumeOk(subscription.tag), nowait=method.nowait)
    queue.consumers.add(subscription)
    channel.vhost.dispatch(queue)


def cancel(channel: "Channel", method: commands.Basic.Cancel) -> None:
    """What the consumer holds unacknowledged stays out; its queue goes on with the next consumer."""
    tag = method.consumer_tag or ""
    subscription = channel.subscriptions.pop(tag, None)
    if tag and tag == channel.reply_tag:
        channel.stop_replies()
    channel.reply(commands.Basic.CancelOk(tag), nowait=method.nowait)
    if subscription is not None:
        subscription.queue.consumers.remove(subscription)
        channel.vhost.consumer_left(subscription.queue)


def get(channel: "Channel", method: commands.Basic.Get) -> None:
    queue = channel.queue(method.queue)
    channel.vhost.dispatch(queue)
    entry = queue.state.take()
    if entry is None:
        channel.send(commands.Basic.GetEmpty())
        return
    tag = hand_out(channel, queue, entry, None, no_ack=method.no_ack)
    header = wire.encode_get_ok(channel.number, tag, entry.returns > 0, entry.message.address, len(queue.state))
    channel.send_content(header, outgoing(queue, entry))


def ack(channel: "Channel", tag: int, *, multiple: bool) -> None:
    deliveries = channel.ledger.settle(tag, multiple=multiple)
    for delivery in deliveries:
        delivery.queue.state.ack(delivery.position)
    channel.resume(delivery.queue for delivery in deliveries)


def nack(channel: "Channel", tag: int, *, multiple: bool, requeue: bool) -> None:
    deliveries = channel.ledger.settle(tag, multiple=multiple)
    if requeue:
        requeue_all(channel, deliveries)
    else:
        for delivery in deliveries:
            channel.vhost.bury(delivery.queue, delivery.queue.state.reject(delivery.position))
    channel.resume(delivery.queue for delivery in deliveries)


def requeue_all(channel: "Channel", deliveries: Iterable[Delivery]) -> set[Queue]:
    """Put deliveries back without delivering them yet, so that each queue gets all of them before it goes on."""
    positions: dict[Queue, list[int]] = {}
    for delivery in deliveries:
        positions.setdefault(delivery.queue, []).append(delivery.position)
    for queue, returned in positions.items():
        channel.vhost.requeue(queue, returned)
    return set(positions)


def recover(channel: "Channel", method: commands.Basic.Recover | commands.Basic.RecoverAsync) -> None:
    if not method.requeue:
        raise ConnectionFault(540, "basic.recover without requeue is not implemented")
    queues = requeue_all(channel, channel.ledger.take_all())
    if isinstance(method, commands.Basic.Recover):
        channel.send(commands.Basic.RecoverOk())
    channel.resume(queues)


def _on_nack(channel: "Channel", method: commands.Basic.Nack) -> None:
    nack(channel, method.delivery_tag, multiple=method.multiple, requeue=method.requeue)


def _on_reject(channel: "Channel", method: commands.Basic.Reject) -> None:
    nack(channel, method.delivery_tag or 0, multiple=False, requeue=method.requeue)


def _consume_replies(channel: "Channel", method: commands.Basic.Consume) -> None:
    if not method.no_ack:
        raise ChannelFault(406, f"consumers of '{REPLY_TO}' must set no_ack")
    if channel.reply_tag:
        raise ChannelFault(406, "reply consumer already set")
    channel.start_replies(method.consumer_tag or f"amq.ctag-{secrets.token_urlsafe(16)}")
    channel.reply(commands.Basic.ConsumeOk(channel.reply_tag), nowait=method.nowait)


def _priority(method: commands.Basic.Consume) -> int:
    value = (method.arguments or {}).get("x-priority", 0)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ChannelFault(406, f"invalid arg 'x-priority': expected an integer, got {value!r}")
    return value


HANDLERS: dict[type[base.Frame], Callable[["Channel", Any], None]] = {
    commands.Basic.Qos: qos,
    commands.Basic.Consume: consume,
    commands.Basic.Cancel: cancel,
    commands.Basic.Get: get,
    commands.Basic.Nack: _on_nack,
    commands.Basic.Reject: _on_reject,
    commands.Basic.Recover: recover,
    commands.Basic.RecoverAsync: recover,
}
