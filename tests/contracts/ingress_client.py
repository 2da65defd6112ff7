"""An application that asks for runs over the broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aio_pika
import orjson
from aio_pika.abc import AbstractIncomingMessage, AbstractRobustChannel

from callboard_runtime.broker import topology
from integration.http_harness import headers

PATIENCE = 20.0  # seconds before a wait counts as failed


def run_input(run: str = "r1", thread: str = "t1", text: str = "hello", **changes: Any) -> dict[str, Any]:
    message = {"id": f"m-{run}", "role": "user", "content": text}
    return {"threadId": thread, "runId": run, "messages": [message]} | changes


def token(user: str = "ada", *roles: str, seconds: float = 600) -> str:
    return headers(user, *roles, seconds=seconds)["Authorization"]


@dataclass(frozen=True)
class Reply:
    status: int
    json: Any
    message: AbstractIncomingMessage


class Integration:
    """Publishes confirmed requests and waits for their replies on a queue of its own."""

    def __init__(self, channel: AbstractRobustChannel, exchange: aio_pika.abc.AbstractExchange, replies: str) -> None:
        self.channel, self._exchange, self.replies = channel, exchange, replies
        self._waiting: dict[str, asyncio.Future[AbstractIncomingMessage]] = {}

    async def send(self, body: Any, *, key: str = "run", **message: Any) -> asyncio.Future[AbstractIncomingMessage]:
        """Publish; the reply comes with the future."""
        given: dict[str, Any] = {"headers": {"authorization": token()}, "correlation_id": uuid.uuid4().hex}
        given |= {"reply_to": self.replies, "delivery_mode": aio_pika.DeliveryMode.PERSISTENT} | message
        reply = self._waiting[given["correlation_id"]] = asyncio.get_running_loop().create_future()
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        await self._exchange.publish(aio_pika.Message(raw, **given), key, mandatory=True)
        return reply

    async def ask(self, body: Any, *, key: str = "run", **message: Any) -> Reply:
        reply = await asyncio.wait_for(await self.send(body, key=key, **message), PATIENCE)
        return Reply(reply.headers["status"], orjson.loads(reply.body), reply)  # pyright: ignore[reportArgumentType]

    async def take(self, message: AbstractIncomingMessage) -> None:
        waiting = self._waiting[message.correlation_id or ""]
        if not waiting.done():
            waiting.set_result(message)

    async def waiting(self, queue: str) -> int:
        """How many messages lie ready in a queue."""
        declared = await self.channel.declare_queue(queue, passive=True)
        return declared.declaration_result.message_count or 0


@asynccontextmanager
async def integration(url: str) -> AsyncIterator[Integration]:
    async with await aio_pika.connect_robust(url) as connection:
        channel = await connection.channel(on_return_raises=True)
        exchange = await channel.get_exchange(topology.INGRESS_EXCHANGE, ensure=True)
        replies = await channel.declare_queue(exclusive=True)
        one = Integration(channel, exchange, replies.name)  # pyright: ignore[reportArgumentType]
        await replies.consume(one.take, no_ack=True)
        yield one
