"""The embedded services die in the middle of runs: they are restarted, and what they forgot does no harm."""

import asyncio
from collections.abc import AsyncIterator
from itertools import count

import psutil
import pytest

from front_client import FrontClient, fresh
from promises import check_run
from shared_stacks import SharedStacks
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(180)

RUNS, WORDS = 3, 40
ANSWER = " ".join(map(str, range(1, WORDS + 1)))
_marks = count(1)


@pytest.fixture
async def embedded(stacks: SharedStacks) -> AsyncIterator[Callboard]:
    stack = await asyncio.to_thread(stacks.stack, "embedded")
    stack.mark()
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
async def user(embedded: Callboard) -> AsyncIterator[FrontClient]:
    async with embedded.client(fresh("user")) as client:
        yield client


@pytest.mark.parametrize("service", ["amqp", "postgres", "valkey"])
async def test_a_service_is_killed(embedded: Callboard, user: FrontClient, stacks: SharedStacks, service: str) -> None:
    mark = f"{service} {next(_marks)}"
    runs = await asyncio.gather(*(user.start(f"count to {WORDS} at 50 ms {mark} {n}") for n in range(RUNS)))
    following = [user.follow(run) for run in runs]
    await until(lambda: all(len(reader.text.split()) >= 5 for reader, _ in following), "answers under way")
    victim = stacks.embedded_child(service)
    victim.kill()
    await until(lambda: not victim.is_running() or victim.status() == psutil.STATUS_ZOMBIE, "its end", timeout=20)
    for run, (reader, task) in zip(runs, following, strict=True):
        await asyncio.wait_for(task, 90)
        await check_run(embedded, user, run, readers=[reader], text=ANSWER)
    requests = [line for line in embedded.ledger() if mark in line["message"]]
    assert len(requests) == RUNS, "no worker died: nothing was to be repeated"
    after = await user.start("count to 3")
    await check_run(embedded, user, after, readers=[await user.read(after)], text="1 2 3")
