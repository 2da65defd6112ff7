"""The brokers that all contracts hold on: the embedded one, this machine's RabbitMQ, and RabbitMQ 4."""

from collections.abc import AsyncIterator

import pytest

from callboard_runtime.embedded.amqp import EmbeddedBroker

_REAL = {"rabbitmq": "rabbitmq_vhost_url", "rabbitmq4": "rabbitmq4_vhost_url"}


@pytest.fixture(params=["embedded", *_REAL])
async def broker_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    """URL of an empty virtual host, without a query."""
    if real := _REAL.get(request.param):
        yield request.getfixturevalue(real).split("?")[0]
        return
    async with EmbeddedBroker() as broker:
        yield broker.url
