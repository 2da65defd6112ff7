"""One suite, two brokers: every test here runs on the embedded broker and on a real RabbitMQ."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractConnection

from callboard_runtime.embedded.amqp import EmbeddedBroker

Connect = Callable[[], Awaitable[AbstractConnection]]


@pytest.fixture(params=["embedded", "rabbitmq"])
async def broker_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """URL of an empty virtual host, without a query."""
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq_vhost_url").split("?")[0]
        return
    async with EmbeddedBroker() as broker:
        yield broker.url


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
