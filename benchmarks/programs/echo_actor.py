"""An actor that answers every command at once and does nothing: what the broker alone costs.

In:  commands on the partition queues
Out: an empty answer to each
"""

import asyncio
import sys

import aiormq
from aiohttp import web
from aiormq.abc import DeliveredMessage
from pydantic import SecretStr

from callboard_runtime.broker import topology
from callboard_runtime.broker.topology_setup import declare
from callboard_runtime.domain.commands import DoneAnswer, Reply, encode_reply
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.settings import Settings

ANSWER = encode_reply(Reply(answer=DoneAnswer()))


async def consume(url: str) -> aiormq.abc.AbstractConnection:
    """Own every partition, each over a channel of its own, as actors do."""
    import aio_pika

    settings = Settings(amqp_url=SecretStr(url))
    async with await aio_pika.connect(url) as declaring, declaring.channel() as channel:
        await declare(channel, settings)
    connection = await aiormq.connect(url)
    for partition in range(PARTITIONS):
        channel = await connection.channel(publisher_confirms=False)
        await channel.basic_qos(prefetch_count=settings.actors.prefetch)
        await channel.basic_consume(topology.partition_queue(partition), answer)
    return connection


async def answer(message: DeliveredMessage) -> None:
    given = message.header.properties
    properties = aiormq.spec.Basic.Properties(correlation_id=given.correlation_id)
    await message.channel.basic_publish(ANSWER, routing_key=given.reply_to or "", properties=properties)
    await message.channel.basic_ack(message.delivery_tag or 0)


async def start(app: web.Application) -> None:
    app[CONNECTION] = await consume(sys.argv[2])


CONNECTION = web.AppKey("connection", aiormq.abc.AbstractConnection)


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


if __name__ == "__main__":
    import uvloop

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.on_startup.append(start)
    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None)
