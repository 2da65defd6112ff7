"""A front on real services, and the stand-in for what writes behind it; modules that need others say so themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from callboard_runtime.settings import Settings

from .http_harness import Backstage, Front, backstage, make_settings, serving


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> Settings:
    return make_settings(postgres_url, redis_url, redis_prefix, embedded_amqp_url)


@pytest.fixture
async def front(settings: Settings) -> AsyncIterator[Front]:
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def stage(settings: Settings) -> AsyncIterator[Backstage]:
    async with backstage(settings) as actors:
        yield actors
