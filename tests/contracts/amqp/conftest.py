"""One suite, two brokers: every test here runs on the embedded broker and on a real RabbitMQ."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

Connect = Callable[[], Awaitable[AbstractConnection]]


@pytest.fixture
async def connect(broker_url: str) -> AsyncIterator[Connect]:
    """Opens plain (not self-healing) connections, closed after the test."""
    async with AsyncExitStack() as stack:

        async def open_connection() -> AbstractConnection:
            return await stack.enter_async_context(await aio_pika.connect(f"{broker_url}?heartbeat=10"))

        yield open_connection


@pytest.fixture
async def connection(connect: Connect) -> AbstractConnection:
    return await connect()


@pytest.fixture
async def channel(connection: AbstractConnection) -> AbstractChannel:
    return await connection.channel()
