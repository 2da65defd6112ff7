"""Connections to Redis that die between two requests, on the event loop that the processes use."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from redis.exceptions import ConnectionError as ConnectionGone

from callboard_runtime.stream.tail import connect_redis


def test_a_connection_that_died_meanwhile_is_a_broken_one(redis_url: str) -> None:
    async def go() -> None:
        redis = connect_redis(redis_url)
        connection = await redis.connection_pool.get_connection()
        await connection.connect()
        connection._writer.transport.abort()
        with pytest.raises(ConnectionGone, match="closed"):
            await connection.send_packed_command(connection.pack_command("PING"))
        await redis.connection_pool.release(connection)
        assert await redis.ping(), "the next request has a new one"
        await redis.aclose()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(go())
