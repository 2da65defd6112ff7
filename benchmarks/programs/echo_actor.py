"""An actor that answers every command at once and does nothing: what the broker alone costs.

In:  commands on the partition queues
Out: an answer to each, of the size of a real one

`plain` writes each answer and each acknowledgement by itself, as most consumers do; `joined` writes those of one turn
of the event loop together, with the very code of the actors.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from typing import Any, cast

import aiormq
from aiohttp import web
from aiormq.abc import AbstractChannel, AbstractConnection, DeliveredMessage
from pydantic import SecretStr

from callboard_actors.acks import AckChannel, AckLines, Acknowledger
from callboard_actors.publisher import ReplyWriter
from callboard_runtime.broker import topology
from callboard_runtime.broker.topology_setup import declare
from callboard_runtime.domain.commands import Reply, RunAnswer, encode_reply
from callboard_runtime.domain.ids import PARTITIONS, new_id
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.settings import Settings

Answer = Callable[[DeliveredMessage], Coroutine[Any, Any, None]]

THREAD = new_id().hex  # ids as long as those of the benchmark's commands
ANSWER = encode_reply(
    Reply(
        answer=RunAnswer(
            run_id=f"run-{THREAD}", thread_id=THREAD, task_id=str(new_id()), status=RunStatus.QUEUED, leg=1
        )
    )
)


async def consume(url: str, way: str) -> AbstractConnection:
    """Own every partition, each over a channel of its own, as actors do."""
    import aio_pika

    settings = Settings(amqp_url=SecretStr(url))
    async with await aio_pika.connect(url) as declaring, declaring.channel() as channel:
        await declare(channel, settings)
    connection = await aiormq.connect(url)
    joined = await _Joined.over(url)
    for partition in range(PARTITIONS):
        channel = await connection.channel(publisher_confirms=False)
        await channel.basic_qos(prefetch_count=settings.actors.prefetch)
        answer = joined.on(channel) if way == "joined" else plain
        await channel.basic_consume(topology.partition_queue(partition), answer)
    return connection


async def plain(message: DeliveredMessage) -> None:
    given = message.header.properties
    properties = aiormq.spec.Basic.Properties(
        content_type="application/json", correlation_id=given.correlation_id, delivery_mode=1
    )
    await message.channel.basic_publish(ANSWER, routing_key=given.reply_to or "", properties=properties)
    await message.channel.basic_ack(message.delivery_tag or 0)


class _Joined:
    """The actors' way: answers over a connection of their own, both kinds of frames in bulk."""

    def __init__(self, replies: ReplyWriter) -> None:
        self._replies, self._lines = replies, AckLines()

    @classmethod
    async def over(cls, url: str) -> _Joined:
        connection, replies = await aiormq.connect(url), ReplyWriter()
        replies.use(await connection.channel(publisher_confirms=False))
        return cls(replies)

    def on(self, channel: AbstractChannel) -> Answer:
        acks = Acknowledger(cast(AckChannel, channel), self._lines.of(channel))

        async def answer(message: DeliveredMessage) -> None:
            given, tag = message.header.properties, message.delivery_tag or 0
            acks.delivered(tag)
            self._replies.add(given.reply_to or "", given.correlation_id or "", ANSWER)
            acks.ack(tag)

        return answer


async def start(app: web.Application) -> None:
    app[CONNECTION] = await consume(sys.argv[2], sys.argv[3])


CONNECTION = web.AppKey("connection", cast(Any, AbstractConnection))


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


if __name__ == "__main__":
    import uvloop

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.on_startup.append(start)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
