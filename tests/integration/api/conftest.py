"""A front before a real actor process on an embedded broker; the workers are played by hand."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.settings import Settings
from integration.http_harness import Backstage, Front, backstage, make_settings, serving
from integration.real_actors import running_actors, with_actors


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> Settings:
    return with_actors(make_settings(postgres_url, redis_url, redis_prefix, embedded_amqp_url))


@pytest.fixture
async def actors(settings: Settings) -> AsyncIterator[None]:
    async with running_actors(settings):
        yield


@pytest.fixture
async def front(settings: Settings, actors: None) -> AsyncIterator[Front]:
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def stage(settings: Settings) -> AsyncIterator[Backstage]:
    async with backstage(settings) as hands:
        yield hands


@pytest.fixture
async def commands(settings: Settings) -> AsyncIterator[CommandClient]:
    client = await CommandClient.connect(settings.required_amqp_url(), "worker")
    yield client
    await client.close()
