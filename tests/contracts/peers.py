"""Peers that speak the project's messages from the other side: an actor that answers from a script, a lane's reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aio_pika
from aio_pika.abc import AbstractIncomingMessage, AbstractQueue

from callboard_runtime.broker import topology
from callboard_runtime.domain.commands import Command, Reply, decode_command, encode_reply

PATIENCE = 15.0  # seconds before a wait counts as failed

Script = Callable[[Command], Awaitable[Reply | None]]


class ScriptedActor:
    """Consumes the given partitions and replies with what `script` returns; None leaves the command without reply."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.commands: list[Command] = []
        self.messages: list[AbstractIncomingMessage] = []
        self._arrived = asyncio.Condition()

    async def take(self, message: AbstractIncomingMessage) -> None:
        command = decode_command(message.body)
        async with self._arrived:
            self.commands.append(command)
            self.messages.append(message)
            self._arrived.notify_all()
        reply = await self.script(command)
        if reply is not None:
            await self.reply(message, reply)
        await message.ack()

    async def reply(self, message: AbstractIncomingMessage, reply: Reply) -> None:
        answer = aio_pika.Message(encode_reply(reply), correlation_id=message.correlation_id)
        await message.channel.basic_publish(
            answer.body, exchange="", routing_key=message.reply_to or "", properties=answer.properties
        )

    async def until(self, count: int) -> list[Command]:
        """Wait until `count` commands have arrived in all."""
        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(self.commands) >= count)
        return self.commands


@asynccontextmanager
async def partition_queues(url: str, *partitions: int, **arguments: str | int) -> AsyncIterator[list[AbstractQueue]]:
    """Declare and bind partition queues as the actors do, on a connection of the test's own."""
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_exchange(topology.SESSION_EXCHANGE, aio_pika.ExchangeType.DIRECT, durable=True)
        queues: list[AbstractQueue] = []
        for partition in partitions:
            queue = await channel.declare_queue(
                topology.partition_queue(partition),
                durable=True,
                arguments=topology.partition_arguments(20, 1000) | arguments,
            )
            await queue.bind(topology.SESSION_EXCHANGE, str(partition))
            queues.append(queue)
        yield queues


@asynccontextmanager
async def scripted_actor(url: str, script: Script, *partitions: int) -> AsyncIterator[ScriptedActor]:
    """An actor for some partitions, with its queues."""
    actor = ScriptedActor(script)
    async with partition_queues(url, *partitions) as queues:
        for queue in queues:
            await queue.consume(actor.take)
        yield actor
