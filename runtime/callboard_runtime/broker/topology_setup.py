"""Declares what `topology` names; every declaration may be repeated, by any number of processes at once.

The fronts and the workers need the exchanges only; the queues carry the actors' limits, so the actors declare them.
"""

from __future__ import annotations

import asyncio
import secrets

from aio_pika import ExchangeType
from aio_pika.abc import AbstractChannel, AbstractQueue

from callboard_runtime.broker import topology
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.settings import IngressSettings, Settings

_EXCHANGES = (
    topology.SESSION_EXCHANGE,
    topology.DEAD_EXCHANGE,
    topology.LANE_EXCHANGE,
    topology.CONTROL_EXCHANGE,
    topology.WORKER_EXCHANGE,
)


async def declare(channel: AbstractChannel, settings: Settings) -> None:
    """Declare every durable exchange and queue with its binding.

    Raises ChannelPreconditionFailed when one exists with other arguments: a limit was changed, or the release.
    """
    await declare_exchanges(channel)
    await declare_dead_queue(channel)
    await _declare_bound(channel, topology.WORKER_QUEUE, topology.WORKER_EXCHANGE, topology.WORKER_QUEUE_ARGUMENTS)
    arguments = topology.partition_arguments(settings.actors.delivery_limit, settings.actors.max_mailbox)
    for partition in range(PARTITIONS):
        await _declare_partition(channel, partition, arguments)


async def declare_exchanges(channel: AbstractChannel) -> None:
    """Declare the exchanges alone: publishing to a missing one would close the channel."""
    for name in _EXCHANGES:
        await channel.declare_exchange(name, ExchangeType.DIRECT, durable=True)
    await channel.declare_exchange(topology.EVENTS_EXCHANGE, ExchangeType.TOPIC, durable=True)


async def declare_control_queue(channel: AbstractChannel, process: str) -> AbstractQueue:
    """The queue on which one worker process is told things; it goes with its connection.

    Its name is new each time: the broker may hold the last one until it notices that its connection is gone.
    """
    name = f"{topology.control_queue(process)}.{secrets.token_hex(4)}"
    queue = await channel.declare_queue(name, exclusive=True, auto_delete=True)
    await queue.bind(topology.CONTROL_EXCHANGE, process)
    return queue


async def declare_ingress(channel: AbstractChannel, settings: IngressSettings) -> AbstractQueue:
    """Where integrations send requests, and where those end that cannot be handled.

    Raises ChannelPreconditionFailed when the queue exists with other limits.
    """
    await channel.declare_exchange(topology.DEAD_EXCHANGE, ExchangeType.DIRECT, durable=True)
    await declare_dead_queue(channel)
    await channel.declare_exchange(topology.INGRESS_EXCHANGE, ExchangeType.DIRECT, durable=True)
    arguments = topology.ingress_arguments(settings.delivery_limit, settings.max_waiting)
    queue = await channel.declare_queue(topology.INGRESS_QUEUE, durable=True, arguments=dict(arguments))
    for key in topology.INGRESS_KEYS:
        await queue.bind(topology.INGRESS_EXCHANGE, key)
    return queue


async def declare_dead_queue(channel: AbstractChannel) -> None:
    """Where messages end that nobody could handle; nothing consumes it."""
    queue = await channel.declare_queue(
        topology.DEAD_QUEUE, durable=True, arguments=dict(topology.DEAD_QUEUE_ARGUMENTS)
    )
    # A wake-up is dead-lettered under its own routing key.
    await asyncio.gather(
        *(queue.bind(topology.DEAD_EXCHANGE, key) for key in (topology.DEAD_QUEUE, topology.WORKER_QUEUE))
    )


async def _declare_partition(channel: AbstractChannel, partition: int, arguments: topology.Arguments) -> None:
    queue = await channel.declare_queue(topology.partition_queue(partition), durable=True, arguments=dict(arguments))
    await queue.bind(topology.SESSION_EXCHANGE, str(partition))


async def _declare_bound(channel: AbstractChannel, name: str, exchange: str, arguments: topology.Arguments) -> None:
    queue = await channel.declare_queue(name, durable=True, arguments=dict(arguments))
    await queue.bind(exchange, name)
