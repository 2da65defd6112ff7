"""Fixtures for everybody: a database, a Redis and a virtual host per test, and servers to break on purpose."""

import gc
import os
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import pytest
import redis as redis_client

import canaries
from services import PostgresServer, RabbitServer, RedisServer, TcpProxy, install
from services.session import Services

if TYPE_CHECKING:
    from shared_stacks import SharedStacks

# A developer's own settings must not leak into tests.
for _name in [key for key in os.environ if key.startswith(("CALLBOARD_", "SOCIAL_")) and "_TEST_" not in key]:
    del os.environ[_name]
os.environ["CALLBOARD_ENV_FILE"] = ""

# Fixture name -> the service behind it, so that all that is needed starts while the first tests run.
_BEHIND = {
    "postgres_url": "template",
    "redis_url": "redis",
    "rabbitmq_vhost_url": "rabbit",
    "rabbitmq4_vhost_url": "rabbit4",
    "private_postgres": "private_postgres",
    "private_redis": "private_redis",
    "private_rabbit": "private_rabbit",
}
_SERVICES = pytest.StashKey[Services]()
_LEAKS = pytest.StashKey[list[canaries.Leak]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_SERVICES] = Services()
    capture = config.pluginmanager.getplugin("capturemanager")
    if capture is not None:
        with capture.global_and_fixture_disabled():
            install.progress = os.fdopen(os.dup(2), "w", encoding="utf-8")


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    wanted = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for name in sorted(wanted & _BEHIND.keys()):
        session.config.stash[_SERVICES].begin(_BEHIND[name])


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A secret in any log that a process of this session wrote fails the session."""
    factory = getattr(session.config, "_tmp_path_factory", None)
    if factory is None or session.config.option.collectonly:
        return
    found = session.config.stash[_LEAKS] = sorted(set(canaries.leaks_of_files(factory.getbasetemp())), key=repr)
    if found:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for leak in config.stash.get(_LEAKS, []):
        terminalreporter.write_line(f"LEAK {leak.what} is in {leak.where}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    if services := config.stash.get(_SERVICES, None):
        services.stop()
    if install.progress is not sys.stderr:
        install.progress.close()
        install.progress = sys.stderr


@pytest.fixture(scope="module", autouse=True)
def garbage_of_its_own() -> Iterator[None]:
    """What a module left open is reported for it, and not for whichever test the collector happens to run in."""
    yield
    gc.collect()
    gc.freeze()  # so that the next module's turn looks at what is new only


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    """The servers of this session, started on first use."""
    return pytestconfig.stash[_SERVICES]


@pytest.fixture(scope="session")
def stacks(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator["SharedStacks"]:
    """The stacks of this session, started on first use."""
    from shared_stacks import SharedStacks  # what it needs is not for every unit test to import

    stacks = SharedStacks(tmp_path_factory.mktemp("stacks"), services)
    yield stacks
    stacks.close()


@pytest.fixture
def postgres_url(services: Services) -> Iterator[str]:
    """A migrated database of this test alone, as `postgresql+asyncpg://…`."""
    template = services.template()
    url = template.databases.create(template.url)
    yield url
    template.databases.drop(url)


@pytest.fixture
def redis_url(services: Services) -> str:
    """A Redis database that no other test uses at the same time (on a foreign server: the one it names)."""
    return services.redis().next_database()


@pytest.fixture
def redis_prefix(redis_url: str) -> Iterator[str]:
    """A key prefix of this test alone; its keys are deleted afterwards."""
    prefix = f"cbtest:{uuid.uuid4().hex[:12]}:"
    yield prefix
    with redis_client.Redis.from_url(redis_url) as client:
        for key in client.scan_iter(match=f"{prefix}*", count=1000):
            client.delete(key)


@pytest.fixture
def rabbitmq_vhost_url(services: Services) -> Iterator[str]:
    """A virtual host of this test alone on a real RabbitMQ."""
    rabbit = services.rabbit()
    url = rabbit.create_vhost()
    yield url
    rabbit.delete_vhost(url)


@pytest.fixture
def rabbitmq4_vhost_url(services: Services) -> Iterator[str]:
    """A virtual host of this test alone on RabbitMQ 4, where quorum queues, flow and defaults differ from 3.10's."""
    rabbit = services.rabbit4()
    url = rabbit.create_vhost()
    yield url
    rabbit.delete_vhost(url)


@pytest.fixture
def amqp_url(rabbitmq_vhost_url: str) -> str:
    """The same as `rabbitmq_vhost_url`."""
    return rabbitmq_vhost_url


@pytest.fixture
async def embedded_amqp_url() -> AsyncIterator[str]:
    """A fresh embedded broker in this test's event loop."""
    from callboard_runtime.embedded.amqp.server import EmbeddedBroker

    broker = EmbeddedBroker()
    url = await broker.start()
    yield f"{url}callboard?heartbeat=10"
    await broker.stop()


@pytest.fixture
def private_postgres(services: Services) -> PostgresServer:
    """A durable PostgreSQL server, running, that this test may stop, kill and freeze."""
    return services.private_postgres()


@pytest.fixture
def private_redis(services: Services) -> RedisServer:
    """A Redis server, running, that this test may stop, kill and freeze."""
    return services.private_redis()


@pytest.fixture
def private_rabbit(services: Services) -> RabbitServer:
    """A RabbitMQ node, running, that this test may stop, kill and freeze."""
    return services.private_rabbit()


@pytest.fixture
async def tcp_proxy() -> AsyncIterator[Callable[[str], Awaitable[TcpProxy]]]:
    """`await tcp_proxy(url)` puts a proxy before that server; `proxy.url(url)` is the way through it."""
    async with AsyncExitStack() as stack:

        async def before(url: str) -> TcpProxy:
            return await stack.enter_async_context(TcpProxy.for_url(url))

        yield before
