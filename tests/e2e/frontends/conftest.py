"""A stack of two fronts, with a backend tool that waits for its test, and the pages of one user per test."""

from collections.abc import AsyncIterator, Iterator

import pytest

from e2e.frontends.pages import HERE, FrontEnds, need_node
from front_client import FrontClient, fresh
from shared_stacks import SharedStacks
from stack import Callboard


@pytest.fixture(scope="package")
def stack(stacks: SharedStacks) -> Iterator[Callboard]:
    need_node()
    _ = stacks.zygote  # so that it is imported while the servers start
    callboard = stacks.private("front-ends", stacks.real(), {"CALLBOARD_CONFIG__DIR": str(HERE / "config")})
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
