"""A stack of several processes of each kind on servers of its own, which the tests kill, freeze and restart.

The stack lives as long as this folder's tests; each test begins with all processes and servers there and well. The
model is a server in pytest, so that a test decides how long an answer takes and counts the requests independently.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from callboard_runtime.persistence import migrate
from front_client import FrontClient, fresh
from model_server import ModelServer, served_model
from services import PostgresServer, RabbitServer, RedisServer
from services.postgres import Databases
from services.session import Services
from shared_stacks import SharedStacks
from stack import Callboard, Urls

HERE = Path(__file__).parent
SILENT_AFTER = 3.0  # seconds
AMQP_HEARTBEAT = 3  # seconds
PROCESSES = {"http": 2, "actors": 2, "worker": 2}
SETTINGS = {
    "CALLBOARD_ACTORS__SILENT_AFTER": str(SILENT_AFTER),
    "CALLBOARD_ACTORS__SWEEP": "0.25",
    "CALLBOARD_ACTORS__STANDBY_DELAY": "0.2",
    "CALLBOARD_WORKER__HEARTBEAT": "0.5",
    "CALLBOARD_HTTP__HEARTBEAT": "1",
    "CALLBOARD_RUNS__CANCEL_GRACE": "1",
    "CALLBOARD_LLM__DEFAULT_MODEL": "held",
    "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI": "sk-not-a-real-one",
}


@pytest.fixture(scope="package")
def model() -> Iterator[ModelServer]:
    with served_model() as server:
        yield server


@pytest.fixture(scope="package")
def tools_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the tools note that they were started, and look whether they may go on."""
    return tmp_path_factory.mktemp("tools")


@pytest.fixture(scope="package")
def faults_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a test names the point at which the next worker that comes by is to die."""
    return tmp_path_factory.mktemp("faults")


@pytest.fixture(scope="package")
def stack(
    stacks: SharedStacks, services: Services, model: ModelServer, tools_folder: Path, faults_folder: Path
) -> Iterator[Callboard]:
    """The processes and their servers, started once."""
    _ = stacks.zygote  # so that it is imported while the servers start
    for name in ("private_postgres", "private_rabbit", "private_redis"):
        services.begin(name)
    database = Databases(services.private_postgres().url).create()
    migrate.upgrade(database)
    # A short heartbeat, so that the broker soon notices a frozen consumer.
    amqp = services.private_rabbit().create_vhost().replace("heartbeat=10", f"heartbeat={AMQP_HEARTBEAT}")
    urls = Urls(database, amqp, services.private_redis().next_database())
    settings = SETTINGS | {
        "CALLBOARD_CONFIG__DIR": str(HERE / "config"),
        "CALLBOARD_TEST_TOOLS": str(tools_folder),
        "CALLBOARD_FAULTS": str(faults_folder),
        "CALLBOARD_LLM__API_BASE__OPENAI": model.url,
    }
    callboard = stacks.private("faults", urls, settings)
    yield callboard
    callboard.kill_all()


@pytest.fixture
def postgres(services: Services, stack: Callboard) -> PostgresServer:
    return services.private_postgres()


@pytest.fixture
def rabbit(services: Services, stack: Callboard) -> RabbitServer:
    return services.private_rabbit()


@pytest.fixture
def redis_server(services: Services, stack: Callboard) -> RedisServer:
    return services.private_redis()


@pytest.fixture
async def callboard(
    stack: Callboard, postgres: PostgresServer, rabbit: RabbitServer, redis_server: RedisServer
) -> AsyncIterator[Callboard]:
    """All processes, ready."""
    await asyncio.to_thread(stack.ensure, **PROCESSES)
    stack.mark()
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
async def client(callboard: Callboard) -> AsyncIterator[FrontClient]:
    """A user of this test alone."""
    async with callboard.client(fresh("user")) as client:
        yield client


@pytest.fixture
def key(model: ModelServer) -> Iterator[str]:
    """A key of this test alone, by which the model holds its answers; released at the end."""
    key = fresh("key")
    yield key
    model.release(key)


@dataclass(frozen=True)
class Buttons:
    """What the backend tools did."""

    folder: Path

    def pressed(self, label: str) -> int:
        """How often a tool was started with this label."""
        file = self.folder / f"{label}.pressed"
        return len(file.read_text().splitlines()) if file.exists() else 0

    def let_go(self, label: str) -> None:
        """Let the tools with this label return."""
        (self.folder / f"{label}.go").touch()


@pytest.fixture
def buttons(tools_folder: Path) -> Buttons:
    return Buttons(tools_folder)
