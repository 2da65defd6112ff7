"""One channel: hands its frames to the publishing, consuming and topology parts, and cleans up when it ends."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from pamqp import base, commands, constants

from callboard_runtime.embedded.amqp import consuming, topology, wire
from callboard_runtime.embedded.amqp.errors import ConnectionFault, not_found
from callboard_runtime.embedded.amqp.ledger import Ledger
from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.publishing import Publisher
from callboard_runtime.embedded.amqp.queue import Queue

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.connection import Connection


class Channel:
    """After `fail` the channel only waits for the peer's close-ok; `connection` drops everything else it sends."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self.connection = connection
        self.vhost = connection.vhost
        self.number = number
        self.closing = False
        self.prefetch = 0
        self.global_prefetch = 0
        self.last_queue = ""
        self.reply_tag = ""
        self.ledger = Ledger()
        self.publisher = Publisher(self)
        self.subscriptions: dict[str, consuming.Subscription] = {}

    # Frames in

    def on_frame(self, frame: wire.RawFrame) -> None:
        """Raises ChannelFault or ConnectionFault when the frame is not acceptable."""
        if frame.kind == constants.FRAME_METHOD:
            self._on_method(frame.payload)
        elif frame.kind == constants.FRAME_HEADER:
            self.publisher.header(frame.payload)
        else:
            self.publisher.body(frame.payload)

    def _on_method(self, payload: bytes) -> None:
        if self.publisher.assembling:
            raise ConnectionFault(505, "method frame in the middle of a message")
        index = wire.method_index(payload)
        if index == wire.PUBLISH:
            self.publisher.begin(wire.decode_publish(payload))
        elif index == wire.ACK:
            tag, multiple = wire.decode_ack(payload)
            consuming.ack(self, tag, multiple=multiple)
        else:
            method = wire.decode_method(payload)
            HANDLERS.get(type(method), _not_implemented)(self, method)

    # Frames out

    def write(self, data: bytes) -> None:
        self.connection.send(data)

    def send(self, method: base.Frame) -> None:
        self.connection.send(wire.encode_method(method, self.number))

    def reply(self, method: base.Frame, *, nowait: bool) -> None:
        if not nowait:
            self.send(method)

    def send_content(self, method: bytes, message: Message) -> None:
        content = wire.encode_content(self.number, message.properties, message.body, self.connection.frame_max)
        self.connection.send(method + content)

    # Queues

    def queue_name(self, name: str) -> str:
        """An empty name means the queue that this channel declared last."""
        return name or self.last_queue

    def queue(self, name: str) -> Queue:
        """Raises ChannelFault 404 or 405."""
        if not (name := self.queue_name(name)):
            raise not_found("previously declared queue", "", self.vhost.name)
        return self.vhost.queue(name, self.connection)

    def has_room(self) -> bool:
        return not self.global_prefetch or len(self.ledger) < self.global_prefetch

    def resume(self, queues: Iterable[Queue] = ()) -> None:
        """Deliver again after settlements; a channel-wide prefetch frees room for all its consumers."""
        waiting = dict.fromkeys(queues)
        if self.global_prefetch:
            waiting |= dict.fromkeys(subscription.queue for subscription in self.subscriptions.values())
        for queue in waiting:
            self.vhost.dispatch(queue)

    # Direct reply-to

    def start_replies(self, tag: str) -> None:
        self.reply_tag = tag
        self.connection.reply_channels[self.publisher.new_reply_token()] = self

    def stop_replies(self) -> None:
        self.connection.reply_channels.pop(self.publisher.reply_token, None)
        self.publisher.reply_token = self.reply_tag = ""

    def deliver_reply(self, message: Message) -> bool:
        """Whether the reply went out: a caller that does not read its socket loses replies, not the broker's memory."""
        if not self.connection.writable:
            return False
        tag = wire.short_string(self.reply_tag)
        method = wire.encode_deliver(self.number, tag, self.ledger.next_tag(), False, message.address)
        self.send_content(method, message)
        return True

    # The end

    def detach(self) -> dict[Queue, bool]:
        """Leave all queues and put back what is unacknowledged, without delivering it to anyone yet.

        Returns the queues that now need `reattend`, and whether a consumer left them.
        """
        left = {subscription.queue: True for subscription in self.subscriptions.values()}
        for subscription in self.subscriptions.values():
            subscription.queue.consumers.remove(subscription)
        self.subscriptions.clear()
        self.stop_replies()
        returned = consuming.requeue_all(self, self.ledger.take_all())
        return dict.fromkeys(returned, False) | left

    def reattend(self, queues: dict[Queue, bool]) -> None:
        for queue, consumer_left in queues.items():
            if consumer_left and not queue.deleted:
                self.vhost.consumer_left(queue)
            else:
                self.vhost.dispatch(queue)

    def release(self) -> None:
        self.reattend(self.detach())


def _open(channel: Channel, method: commands.Channel.Open) -> None:
    raise ConnectionFault(504, f"second 'channel.open' on channel {channel.number}")


def _flow(channel: Channel, method: commands.Channel.Flow) -> None:
    if not method.active:
        raise ConnectionFault(540, "channel.flow active=false is not implemented; use basic.qos")
    channel.send(commands.Channel.FlowOk(active=True))


def _confirm_select(channel: Channel, method: commands.Confirm.Select) -> None:
    channel.publisher.select_confirms()
    channel.reply(commands.Confirm.SelectOk(), nowait=method.nowait)


def _not_implemented(channel: Channel, method: base.Frame) -> None:
    raise ConnectionFault(540, f"{method.name} is not implemented by the embedded broker")


HANDLERS: dict[type[base.Frame], Callable[[Channel, Any], None]] = {
    commands.Channel.Open: _open,
    commands.Channel.Flow: _flow,
    commands.Confirm.Select: _confirm_select,
    **topology.HANDLERS,
    **consuming.HANDLERS,
}
