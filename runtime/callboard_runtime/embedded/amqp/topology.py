"""Exchange and queue methods of a channel: declare, delete, bind, unbind, purge."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pamqp import base, commands

from callboard_runtime.embedded.amqp import wire
from callboard_runtime.embedded.amqp.errors import ChannelFault
from callboard_runtime.embedded.amqp.exchange import Binding, ExchangeOptions
from callboard_runtime.embedded.amqp.options import parse_options
from callboard_runtime.embedded.amqp.publishing import REPLY_TO
from callboard_runtime.embedded.amqp.queue import Queue

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.channel import Channel


def exchange_declare(channel: "Channel", method: commands.Exchange.Declare) -> None:
    if method.passive:
        channel.vhost.exchange(method.exchange)
    else:
        channel.vhost.declare_exchange(method.exchange, _exchange_options(method))
    channel.reply(commands.Exchange.DeclareOk(), nowait=method.nowait)


def exchange_delete(channel: "Channel", method: commands.Exchange.Delete) -> None:
    channel.vhost.delete_exchange(method.exchange, if_unused=method.if_unused)
    channel.reply(commands.Exchange.DeleteOk(), nowait=method.nowait)


def exchange_bind(channel: "Channel", method: commands.Exchange.Bind) -> None:
    binding = Binding.create(channel.vhost.exchange(method.destination), method.routing_key, method.arguments)
    channel.vhost.bind(method.source, binding)
    channel.reply(commands.Exchange.BindOk(), nowait=method.nowait)


def exchange_unbind(channel: "Channel", method: commands.Exchange.Unbind) -> None:
    binding = Binding.create(channel.vhost.exchange(method.destination), method.routing_key, method.arguments)
    channel.vhost.unbind(method.source, binding)
    channel.reply(commands.Exchange.UnbindOk(), nowait=method.nowait)


def queue_declare(channel: "Channel", method: commands.Queue.Declare) -> None:
    if method.queue == REPLY_TO:
        messages, consumers, name = 0, int(bool(channel.reply_tag)), method.queue
    else:
        queue = channel.queue(method.queue) if method.passive else _declared_queue(channel, method)
        messages, consumers, name = len(queue.state), len(queue.consumers), queue.name
        channel.last_queue = name
    if not method.nowait:
        channel.write(wire.encode_declare_ok(channel.number, name, messages, consumers))


def queue_delete(channel: "Channel", method: commands.Queue.Delete) -> None:
    """Deleting a queue that is not there succeeds."""
    count = 0
    if (name := channel.queue_name(method.queue)) in channel.vhost.queues:
        queue = channel.queue(name)
        if method.if_unused and len(queue.consumers):
            raise ChannelFault(406, f"queue '{name}' in vhost '{channel.vhost.name}' in use")
        if method.if_empty and len(queue.state):
            raise ChannelFault(406, f"queue '{name}' in vhost '{channel.vhost.name}' is not empty")
        count = channel.vhost.delete_queue(queue)
    channel.reply(commands.Queue.DeleteOk(count), nowait=method.nowait)


def queue_bind(channel: "Channel", method: commands.Queue.Bind) -> None:
    binding = Binding.create(channel.queue(method.queue), method.routing_key, method.arguments)
    channel.vhost.bind(method.exchange, binding)
    channel.reply(commands.Queue.BindOk(), nowait=method.nowait)


def queue_unbind(channel: "Channel", method: commands.Queue.Unbind) -> None:
    binding = Binding.create(channel.queue(method.queue), method.routing_key, method.arguments)
    channel.vhost.unbind(method.exchange, binding)
    channel.send(commands.Queue.UnbindOk())


def queue_purge(channel: "Channel", method: commands.Queue.Purge) -> None:
    count = channel.queue(method.queue).state.purge()
    channel.reply(commands.Queue.PurgeOk(count), nowait=method.nowait)


def _declared_queue(channel: "Channel", method: commands.Queue.Declare) -> Queue:
    options = parse_options(
        method.arguments or {},
        durable=method.durable,
        exclusive=method.exclusive,
        auto_delete=method.auto_delete,
    )
    return channel.vhost.declare_queue(method.queue, options, channel.connection)


def _exchange_options(method: commands.Exchange.Declare) -> ExchangeOptions:
    alternate = (method.arguments or {}).get("alternate-exchange")
    if alternate is not None and not isinstance(alternate, str):
        raise ChannelFault(406, f"invalid arg 'alternate-exchange': expected a string, got {alternate!r}")
    return ExchangeOptions(method.exchange_type, method.durable, method.auto_delete, method.internal, alternate)


HANDLERS: dict[type[base.Frame], Callable[["Channel", Any], None]] = {
    commands.Exchange.Declare: exchange_declare,
    commands.Exchange.Delete: exchange_delete,
    commands.Exchange.Bind: exchange_bind,
    commands.Exchange.Unbind: exchange_unbind,
    commands.Queue.Declare: queue_declare,
    commands.Queue.Delete: queue_delete,
    commands.Queue.Bind: queue_bind,
    commands.Queue.Unbind: queue_unbind,
    commands.Queue.Purge: queue_purge,
}
