"""What a cluster adds: a broker node dies and its peers go on, a database fails over to its standby.

RabbitMQ is three nodes of version 4 behind an address that leads to a living one; PostgreSQL is a primary and a
synchronous standby, both named in `CALLBOARD_DATABASE_URL`.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import asyncpg
import pytest

from callboard_runtime.persistence import migrate
from faults.conftest import HERE, SETTINGS
from faults.support import RUNS, all_end, attempts, in_mid_answer, one_more
from front_client import FrontClient, fresh
from model_server import ModelServer
from services import PostgresServer, RabbitServer, TcpProxy
from services.session import Services
from shared_stacks import SharedStacks
from stack import Callboard, Urls

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def cluster(services: Services) -> Iterator[list[RabbitServer]]:
    """Three nodes."""
    folder = services.folder / "cluster"
    with ExitStack() as undo:
        seed = RabbitServer(folder / "1", version="4")
        undo.callback(seed.stop)
        seed.start()
        others = [RabbitServer(folder / name, version="4", seed=seed) for name in ("2", "3")]
        for node in others:
            undo.callback(node.kill)
        with ThreadPoolExecutor() as threads:
            list(threads.map(RabbitServer.start, others))
        yield [seed, *others]


@pytest.fixture
def nodes(cluster: list[RabbitServer]) -> list[RabbitServer]:
    """The same, all of them there, whatever the test before did."""
    for node in cluster:
        node.ensure_running()
    return cluster


@dataclass(frozen=True)
class Pair:
    """A primary with a standby that has all that was ever committed."""

    primary: PostgresServer
    standby: PostgresServer

    @property
    def url(self) -> str:
        """Both, of which clients use the one that takes writes."""
        hosts = "&".join(f"host=127.0.0.1:{server.port}" for server in (self.primary, self.standby))
        return f"postgresql+asyncpg://callboard:callboard@/postgres?{hosts}&target_session_attrs=read-write"

    async def fail_over(self) -> None:
        await asyncio.to_thread(self.primary.kill)
        connection = await asyncpg.connect(self.standby.url.replace("+asyncpg", ""))
        assert await connection.fetchval("SELECT pg_promote()")
        await connection.close()


@pytest.fixture
def pair(services: Services) -> Iterator[Pair]:
    folder = services.folder / "pair"
    primary = PostgresServer(folder / "primary")
    primary.start()
    migrate.upgrade(primary.url)
    primary.stop()
    standby = primary.standby(folder / "standby")
    # A commit returns once both have it on disk: the failover loses nothing that was ever acknowledged.
    primary.configure(synchronous_standby_names="*")
    for server in (primary, standby):
        server.start()
    yield Pair(primary, standby)
    for server in (primary, standby):
        server.kill()


@asynccontextmanager
async def running(stacks: SharedStacks, urls: Urls, model: ModelServer) -> AsyncIterator[tuple[Callboard, FrontClient]]:
    settings = SETTINGS | {"CALLBOARD_CONFIG__DIR": str(HERE / "config"), "CALLBOARD_LLM__API_BASE__OPENAI": model.url}
    callboard = stacks.private(fresh("cluster"), urls, settings)
    await asyncio.to_thread(callboard.ensure, http=1, actors=1, worker=1)
    async with callboard.client(fresh("user")) as client:
        yield callboard, client
    print(callboard.logs())  # shown for a failed test only
    await asyncio.to_thread(callboard.kill_all)


async def test_the_node_that_all_are_connected_to_dies(
    stacks: SharedStacks, nodes: list[RabbitServer], model: ModelServer, key: str
) -> None:
    vhost = await asyncio.to_thread(nodes[0].create_vhost)
    async with TcpProxy.for_url(vhost) as address:
        urls = replace(stacks.real(), amqp=address.url(vhost))
        async with running(stacks, urls, model) as (callboard, client):
            following = await in_mid_answer(client, model, key)
            await asyncio.to_thread(nodes[0].kill)
            address.lead_to(nodes[1].url)
            model.release(key)
            await all_end(callboard, client, following)
            assert len(model.of(key)) == RUNS, "a node that dies repeats no run"
            assert "OneShotCallback" not in callboard.logs(), "one line for a lost connection, not one per channel"
            await one_more(callboard, client)


async def test_a_node_dies_that_nobody_is_connected_to(
    stacks: SharedStacks, nodes: list[RabbitServer], model: ModelServer, key: str
) -> None:
    vhost = await asyncio.to_thread(nodes[0].create_vhost)
    urls = replace(stacks.real(), amqp=vhost.replace(f":{nodes[0].port}/", f":{nodes[1].port}/"))
    async with running(stacks, urls, model) as (callboard, client):
        following = await in_mid_answer(client, model, key)
        await asyncio.to_thread(nodes[2].kill)
        model.release(key)
        await all_end(callboard, client, following)
        for _, run, _, _ in following:
            assert await attempts(callboard, client, run) == ["finished"]
        await one_more(callboard, client)


async def test_the_database_fails_over(stacks: SharedStacks, pair: Pair, model: ModelServer, key: str) -> None:
    urls = replace(stacks.real(), database=pair.url)
    async with running(stacks, urls, model) as (callboard, client):
        following = await in_mid_answer(client, model, key)
        await pair.fail_over()
        model.release(key)
        await all_end(callboard, client, following)
        for thread, _, _, _ in following:
            assert [row["status"] for row in await client.calls(thread)].count("recorded") == 1
        await one_more(callboard, client)
