"""Requests that integrations send over the broker: taken by any front, acknowledged once they are answered for good.

In:  messages of queue callboard.ingress.v1.
Out: a reply to `reply_to`, after the actor's answer; an unreadable message also goes to the dead-letter queue.

While a service that is needed is away a message is held and tried again, so that nothing is refused for that. A front
that dies leaves its messages to the others: whatever was accepted already is answered the same way again.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import aiormq.abc
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import DeliveryError
from aiormq import spec

from callboard_http.ingress_requests import Answer, Attempt, IngressRequests, Request, failed, granted, refused
from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import BrokerLink, ConnectionGone, Line, gone_when_broken, open_channel
from callboard_runtime.broker.topology_setup import declare_ingress
from callboard_runtime.domain.commands import RunAnswer
from callboard_runtime.errors import Refused, TooLate, Unavailable
from callboard_runtime.observe import tracing
from callboard_runtime.persistence.database import is_outage
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.2, 5.0  # seconds between two tries while a service is away
REPLY_TIMEOUT = 5.0  # seconds
DRAIN = 3.0  # seconds for messages under way at shutdown
PERSISTENT = 2
OURS = "callboard."  # no reply goes to a queue of this name: it would be taken for a command
SECRET_HEADERS = frozenset({"authorization"})


class _IngressLine(Line):
    """The channel that messages come from and replies go to."""

    def __init__(self, channel: aiormq.abc.AbstractChannel) -> None:
        super().__init__(channel)
        self.consumer_tag = ""
        self.under_way: set[asyncio.Task[Any]] = set()


class Ingress:
    """One consumer of the requests' queue; any number of fronts compete for its messages.

    `counts` are the answers by what was asked for and status.
    """

    def __init__(self, settings: Settings, name: str, requests: IngressRequests) -> None:
        self.counts: Counter[tuple[str, int]] = Counter()
        self._settings, self._requests = settings.ingress, requests
        self._link = BrokerLink(settings.required_amqp_url(), name, self._open)

    async def start(self, wait: float = 0) -> None:
        """Connect and consume in the background, again after every loss; returns after `wait` seconds at the latest."""
        await self._link.start(wait)

    async def close(self) -> None:
        """Take no more, answer what is under way within a few seconds; the rest goes back to the queue."""
        if (line := self._link.current) is not None:
            with suppress(ConnectionGone, TimeoutError):
                async with asyncio.timeout(DRAIN), gone_when_broken():
                    await line.channel.basic_cancel(line.consumer_tag)
                    if line.under_way:
                        await asyncio.wait(line.under_way)
        await self._link.close()

    async def _open(self, connection: AbstractConnection) -> _IngressLine:
        async with await connection.channel(publisher_confirms=False) as channel:
            await declare_ingress(channel, self._settings)
        line = _IngressLine(await open_channel(connection, confirms=True))
        await line.channel.basic_qos(prefetch_count=self._settings.prefetch)

        async def take(message: aiormq.abc.DeliveredMessage) -> None:
            await self._track(line, message)

        consumer = await line.channel.basic_consume(topology.INGRESS_QUEUE, take)
        line.consumer_tag = consumer.consumer_tag or ""
        return line

    async def _track(self, line: _IngressLine, message: aiormq.abc.DeliveredMessage) -> None:
        task = asyncio.current_task()
        if task is not None:
            line.under_way.add(task)
            task.add_done_callback(line.under_way.discard)
        try:
            await self._handle(line, message)
        except (ConnectionGone, DeliveryError, TimeoutError) as error:
            logger.info("a message was not settled: %r", error, extra={"action": "ingress_not_settled"})
            with suppress(ConnectionGone):
                await _return(line, message)

    async def _handle(self, line: _IngressLine, message: aiormq.abc.DeliveredMessage) -> None:
        request = Request(message.routing_key or "", message.header.properties.headers or {}, message.body)
        with _span(request):
            answer = await self._answer(request)
        self.counts[request.key if request.key in topology.INGRESS_KEYS else "unknown", answer.status] += 1
        if answer.unreadable:
            await _set_aside(line, message, answer.unreadable)
        await _reply(line, message, answer)
        async with gone_when_broken():
            await line.channel.basic_ack(_tag(message))

    async def _answer(self, request: Request) -> Answer:
        try:
            return granted(await _persistently(await self._requests.attempt(request)))
        except Refused as error:
            return refused(request, error)
        except Exception as error:  # noqa: BLE001 - the last resort: it must neither come back for ever nor be lost
            return failed(request, error)


def _span(request: Request) -> tracing.Span:
    key = request.key if request.key in topology.INGRESS_KEYS else "unknown"
    parent = tracing.header_of(request.headers)
    return tracing.span(f"process {topology.INGRESS_QUEUE} {key}", kind="consumer", parent=parent, root=True)


async def _persistently(attempt: Attempt) -> RunAnswer:
    """Try until a service that is away is back, for as long as that takes; raises what the request is refused with."""
    pause = FIRST_PAUSE
    while True:
        try:
            return await attempt()
        except (Unavailable, TooLate) as error:
            reason = str(error)
        except Exception as error:
            if not is_outage(error):
                raise
            reason = type(error).__name__
        logger.info("a request waits: %s", reason, extra={"action": "ingress_waits"})
        await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads retries, hides nothing
        pause = min(2 * pause, LONGEST_PAUSE)


async def _reply(line: _IngressLine, message: aiormq.abc.DeliveredMessage, answer: Answer) -> None:
    """Tell the sender, if it wants to know; a reply queue that is gone is its own affair."""
    asked = message.header.properties
    if not asked.reply_to or asked.reply_to.startswith(OURS):
        if answer.status >= 400:
            logger.warning("refused unheard, status %d", answer.status, extra={"action": "ingress_refused"})
        return
    properties = spec.Basic.Properties(
        content_type=answer.content_type,
        correlation_id=asked.correlation_id or asked.message_id,
        message_type=answer.type,
        headers={"status": answer.status},
        timestamp=datetime.now(UTC),
    )
    try:
        await line.publish("", asked.reply_to, answer.body, properties, timeout=REPLY_TIMEOUT)
    except DeliveryError as error:
        logger.info("a reply was not taken: %r", error, extra={"action": "reply_dropped"})


async def _set_aside(line: _IngressLine, message: aiormq.abc.DeliveredMessage, reason: str) -> None:
    """A copy for those who run the system: with the reason, without the token."""
    asked = message.header.properties
    origin = {
        topology.H_DEAD_REASON: reason[:500],
        topology.H_DEAD_QUEUE: topology.INGRESS_QUEUE,
        topology.H_DEAD_EXCHANGE: message.exchange or "",
        topology.H_DEAD_KEY: message.routing_key or "",
    }
    properties = spec.Basic.Properties(
        content_type=asked.content_type,
        delivery_mode=PERSISTENT,
        correlation_id=asked.correlation_id,
        message_id=asked.message_id,
        headers={**_without_secrets(asked.headers or {}), **origin},
        timestamp=datetime.now(UTC),
    )
    logger.warning("a message is set aside: %s", reason, extra={"action": "ingress_set_aside"})
    await line.publish(
        topology.DEAD_EXCHANGE, topology.DEAD_QUEUE, message.body, properties, mandatory=True, timeout=REPLY_TIMEOUT
    )


def _without_secrets(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in headers.items() if name.lower() not in SECRET_HEADERS}


async def _return(line: _IngressLine, message: aiormq.abc.DeliveredMessage) -> None:
    """Back to the queue, after a moment: what failed was the broker's side."""
    await asyncio.sleep(FIRST_PAUSE)
    async with gone_when_broken():
        await line.channel.basic_nack(_tag(message), requeue=True)


def _tag(message: aiormq.abc.DeliveredMessage) -> int:
    return message.delivery_tag or 0
