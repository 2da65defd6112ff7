"""Sends commands to sessions' actors and waits for their replies.

In:  a Command
Out: the actor's Answer, or the error it replied with
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Self
from uuid import uuid4

import aiormq.abc
from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import DeliveryError, PublishError
from aiormq import spec

from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import BrokerLink, ConnectionGone, Line, open_channel
from callboard_runtime.domain.commands import Answer, Command, Reply, decode_reply, encode_command
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import Unavailable
from callboard_runtime.observe import tracing
from callboard_runtime.observe.metrics import COMMAND_SECONDS, COMMANDS_UNANSWERED

logger = logging.getLogger(__name__)

PERSISTENT = 2
RETRY_AFTER = 1  # seconds that a refused caller is told to wait
TELL_TIMEOUT = 5.0  # seconds
NOTICE = 0.01  # seconds in which the link notices, too, that the connection broke


class _ReplyLine(Line):
    """A channel with its reply queue; the callers that wait on it must send again when it is gone."""

    def __init__(self, channel: aiormq.abc.AbstractChannel, reply_queue: str) -> None:
        super().__init__(channel)
        self.reply_queue = reply_queue
        self.waiting: dict[str, asyncio.Future[Reply]] = {}

    def expect(self, correlation: str) -> asyncio.Future[Reply]:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting[correlation] = future
        future.add_done_callback(lambda _: self.waiting.pop(correlation, None))
        return future

    def on_reply(self, message: aiormq.abc.DeliveredMessage) -> None:
        future = self.waiting.get(message.header.properties.correlation_id or "")
        if future is None or future.done():
            return  # the caller gave up, or the command was answered twice
        try:
            future.set_result(decode_reply(message.body))
        except ValueError as error:
            future.set_exception(error)

    def lost(self) -> None:
        for future in list(self.waiting.values()):
            if not future.done():
                future.set_exception(ConnectionGone("the reply queue is gone"))


class CommandClient:
    """Request and reply with the actors over one connection; any number of requests may be under way at once.

    Belongs to the event loop that created it.
    """

    def __init__(self, amqp_url: str, name: str) -> None:
        self._link = BrokerLink(amqp_url, name, _open_line)

    @classmethod
    async def connect(cls, amqp_url: str, name: str, *, wait: float = 5.0) -> Self:
        """A client that connects, and connects again, by itself; returns after `wait` seconds in any case."""
        client = cls(amqp_url, name)
        await client._link.start(wait)
        return client

    @property
    def connected(self) -> bool:
        return self._link.current is not None

    async def send(self, command: Command, timeout: float) -> Answer:
        """Deliver a command and return its answer; `timeout` in seconds.

        A command whose connection broke is sent again, but never after its `not_after`: the actor recognises the
        copy. Raises the error that the actor replied with; Unavailable when nobody answered in time (the command may
        still take effect) or the broker refused it; TooLarge.
        """
        if tracing.current is None:
            return await self._ask(command, timeout)
        with tracing.span(f"send {command.type}", kind="client", attributes=_about(command)):
            return await self._ask(command, timeout)

    async def _ask(self, command: Command, timeout: float) -> Answer:
        body, began = encode_command(command), time.perf_counter()
        correlation = uuid4().hex
        try:
            async with asyncio.timeout(timeout):
                reply = await self._request(command, body, correlation)
        except TimeoutError:
            COMMANDS_UNANSWERED.labels(command.type).inc()
            raise Unavailable(f"no answer to {command.type} within {timeout:g} s", retry_after=RETRY_AFTER) from None
        COMMAND_SECONDS.labels(command.type).observe(time.perf_counter() - began)
        return reply.unwrap()

    async def tell(self, command: Command, timeout: float = TELL_TIMEOUT) -> None:
        """Deliver a command without waiting for its effect; returns when the broker has it. Raises Unavailable."""
        body = encode_command(command)
        try:
            async with asyncio.timeout(timeout):
                await self._deliver(command, body)
        except TimeoutError:
            raise Unavailable(f"the broker did not take {command.type} in time", retry_after=RETRY_AFTER) from None

    async def close(self) -> None:
        """Close the connection; requests under way end as Unavailable at their timeout."""
        await self._link.close()

    async def _request(self, command: Command, body: bytes, correlation: str) -> Reply:
        while True:
            line = await self._link.line()
            _check_not_late(command)
            reply = line.expect(correlation)
            try:
                await _publish(line, command, body, correlation)
                return await reply
            except ConnectionGone:
                logger.debug("%s is sent again", command.type, extra={"action": "command_resent"})
                await asyncio.sleep(NOTICE)
            finally:
                reply.cancel()

    async def _deliver(self, command: Command, body: bytes) -> None:
        while True:
            line = await self._link.line()
            _check_not_late(command)
            try:
                await _publish(line, command, body, None)
            except ConnectionGone:
                await asyncio.sleep(NOTICE)
            else:
                return


async def _open_line(connection: AbstractConnection) -> _ReplyLine:
    channel = await open_channel(connection, confirms=True)
    await channel.exchange_declare(
        exchange=topology.SESSION_EXCHANGE, exchange_type=ExchangeType.DIRECT.value, durable=True
    )
    queue = (await channel.queue_declare(exclusive=True, auto_delete=True)).queue or ""
    line = _ReplyLine(channel, queue)

    async def on_message(message: aiormq.abc.DeliveredMessage) -> None:
        line.on_reply(message)

    await channel.basic_consume(queue, on_message, no_ack=True)
    return line


async def _publish(line: _ReplyLine, command: Command, body: bytes, correlation: str | None) -> None:
    trace = tracing.traceparent()
    properties = spec.Basic.Properties(
        headers={tracing.HEADER: trace} if trace else None,
        content_type="application/json",
        delivery_mode=PERSISTENT,
        message_type=command.type,
        correlation_id=correlation,
        reply_to=line.reply_queue if correlation else None,
    )
    key = topology.partition_key(command.session_id)
    try:
        await line.publish(topology.SESSION_EXCHANGE, key, body, properties, mandatory=True)
    except PublishError:
        raise Unavailable("no session actor has been started yet", retry_after=RETRY_AFTER) from None
    except DeliveryError:
        raise Unavailable("too many commands wait for this session's actor", retry_after=RETRY_AFTER) from None


def _about(command: Command) -> tracing.Attributes:
    return {
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "send",
        "messaging.destination.name": topology.SESSION_EXCHANGE,
        "callboard.session_id": str(command.session_id),
    }


def _check_not_late(command: Command) -> None:
    not_after = getattr(command, "not_after", None)
    if not_after is not None and utcnow() > not_after:
        raise Unavailable(f"{command.type} could not be delivered in time", retry_after=RETRY_AFTER)
