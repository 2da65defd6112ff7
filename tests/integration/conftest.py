"""A front on real services, and the stand-in for what writes behind it, or all processes; who needs others says so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from callboard_runtime.settings import Settings
from front_client import FrontClient, fresh
from shared_stacks import SharedStacks
from stack import Callboard

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


@pytest.fixture
def callboard(stacks: SharedStacks) -> Iterator[Callboard]:
    """All processes, on real services, shared with other modules."""
    stack = stacks.stack("rabbitmq")
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
async def client(callboard: Callboard) -> AsyncIterator[FrontClient]:
    """A user of this test alone."""
    async with callboard.client(fresh("user")) as client:
        yield client
