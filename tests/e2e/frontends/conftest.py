"""A stack of two fronts, with a backend tool that waits for its test, and the pages of one user per test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from e2e.frontends.pages import HERE, FrontEnds, need_node
from front_client import FrontClient, fresh
from services.session import Services
from shared_stacks import SharedStacks, shared_stacks
from stack import Callboard, Urls


@pytest.fixture(scope="package")
def private_stacks(
    pytestconfig: pytest.Config, services: Services, tmp_path_factory: pytest.TempPathFactory
) -> SharedStacks:
    return shared_stacks(pytestconfig, tmp_path_factory.mktemp("stacks"), services)


@pytest.fixture(scope="package")
def stack(private_stacks: SharedStacks, services: Services) -> Iterator[Callboard]:
    need_node()
    _ = private_stacks.zygote  # so that it is imported while the servers start
    template = services.template()
    urls = Urls(
        template.databases.create(template.url), services.rabbit().create_vhost(), services.redis().next_database()
    )
    callboard = private_stacks.private("front-ends", urls, {"CALLBOARD_CONFIG__DIR": str(HERE / "config")})
    callboard.ensure(http=2, actors=1, worker=1)
    yield callboard
    callboard.kill_all()


@pytest.fixture
async def client(stack: Callboard) -> AsyncIterator[FrontClient]:
    stack.mark()
    async with stack.client(fresh("user")) as client:
        yield client
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
def pages(stack: Callboard, client: FrontClient) -> FrontEnds:
    return FrontEnds(stack, client.headers)


@pytest.fixture(params=["current", "previous"])
def generation(request: pytest.FixtureRequest) -> str:
    """Of `@ag-ui/client`."""
    return request.param


@pytest.fixture
def thread() -> str:
    return fresh("thread")
