"""`callboard worker` as a parent of two: they share the work, replace each other, and leave together."""

import asyncio
import re
from collections import Counter
from collections.abc import Iterable, Iterator

import psutil
import pytest

from callboard_runtime.embedded.paths import free_port
from front_client import FrontClient
from promises import check_run
from shared_stacks import SharedStacks
from stack import Callboard, Node
from waiting import until

MANY = 20
SLOTS = MANY // 2  # per process: it takes two of them
SLOW, SAID = "count to 60 at 50 ms", " ".join(map(str, range(1, 61)))
OPEN = "SELECT process FROM run_attempts WHERE ended_at IS NULL"

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def stack(stacks: SharedStacks) -> Callboard:
    settings = {
        "CALLBOARD_WORKER__PROCESSES": "2",
        "CALLBOARD_WORKER__CONCURRENCY": str(SLOTS),
        "CALLBOARD_METRICS__PORT": str(free_port()),
    }
    return stacks.private("processes", stacks.real(), settings)


@pytest.fixture
def callboard(stack: Callboard) -> Iterator[Callboard]:
    stack.ensure(http=1, actors=1, worker=0)
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
async def parent(callboard: Callboard) -> Node:
    """A worker of which both processes beat."""
    node = callboard.spawn("worker")
    await until(lambda: both_beat(callboard, node), "two heartbeats")
    return node


def children(node: Node) -> dict[int, psutil.Process]:
    return {child.pid: child for child in psutil.Process(node.pid).children()}


async def both_beat(callboard: Callboard, node: Node) -> bool:
    """Whether the two children that there are now are known as alive."""
    now = children(node)
    return len(now) == 2 and await beating(callboard, now) == set(now)


async def beating(callboard: Callboard, family: Iterable[int]) -> set[int]:
    """Those of these processes that the database knows."""
    names = [row["id"] for row in await callboard.query("SELECT id FROM processes WHERE kind = 'worker'")]
    return {pid for pid in family if any(f"-{pid}-" in name for name in names)}


async def start(callboard: Callboard, client: FrontClient, count: int) -> list[str]:
    """So many slow runs, all of them in execution."""
    runs = await asyncio.gather(*(client.start(SLOW) for _ in range(count)))

    async def all_open() -> bool:
        return len(await callboard.query(OPEN)) == count

    await until(all_open, f"{count} attempts")
    return runs


async def test_two_processes_share_the_runs_and_one_goes_on_after_the_others_death(
    callboard: Callboard, client: FrontClient, parent: Node
) -> None:
    runs = await start(callboard, client, MANY)
    held = Counter(row["process"] for row in await callboard.query(OPEN))
    assert list(held.values()) == [SLOTS, SLOTS]
    victim, survivor = children(parent).values()
    victim.kill()
    await until(lambda: both_beat(callboard, parent), "the replacement's heartbeat")
    assert survivor.pid in children(parent)
    for run in runs:
        await check_run(callboard, client, run, readers=[await client.read(run)], text=SAID)
    attempts = await callboard.query("SELECT process, outcome FROM run_attempts")
    lost = [row["process"] for row in attempts if row["outcome"] == "superseded"]
    assert len(lost) == SLOTS
    assert all(f"-{victim.pid}-" in process for process in lost)
    log = parent.log.read_text()
    assert f"process {victim.pid} ended: SIGKILL" in log
    assert len(set(re.findall(r"metrics are at \S+:(\d+)/", log))) >= 2  # a page of its own for each


async def test_sigterm_drains_and_a_later_worker_goes_on(
    callboard: Callboard, client: FrontClient, parent: Node
) -> None:
    runs = await start(callboard, client, 4)
    family = children(parent)
    assert parent.stop() == 0
    assert not any(child.is_running() for child in family.values())
    assert not await beating(callboard, family)  # they said that they leave
    assert await callboard.query(OPEN) == []
    callboard.spawn("worker")
    for run in runs:
        await check_run(callboard, client, run, readers=[await client.read(run)], text=SAID)
