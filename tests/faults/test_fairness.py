"""One user's backlog does not keep another's first run waiting: real fronts, actors and a worker with few slots.

CALLBOARD_TEST_BACKLOG says how many runs wait.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from front_client import FrontClient, fresh, run_input
from promises import check_run
from shared_stacks import SharedStacks
from stack import Callboard

BACKLOG = int(os.environ.get("CALLBOARD_TEST_BACKLOG", "200"))
SLOTS, AT_ONCE = 4, 40
SETTINGS = {
    "CALLBOARD_WORKER__CONCURRENCY": str(SLOTS),
    "CALLBOARD_HTTP__MAX_QUEUED_RUNS_PER_USER": str(2 * BACKLOG),
    "CALLBOARD_LLM__SCRIPTS": str(Path(__file__).parents[1] / "chaos" / "scripts"),
}
TEXT = "one two three four"

_STARTED_BETWEEN = """
SELECT count(*) AS n FROM runs other, runs mine
 WHERE mine.user_id = $1 AND mine.client_run_id = $2 AND other.user_id = $3
   AND other.started_at > mine.created_at AND other.started_at < mine.started_at
"""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
async def few_slots(stacks: SharedStacks) -> AsyncIterator[Callboard]:
    callboard = stacks.private("fairness", stacks.real(), SETTINGS)
    await asyncio.to_thread(callboard.ensure, http=1, actors=2, worker=1)
    yield callboard
    print(callboard.logs())  # shown for a failed test only
    await asyncio.to_thread(callboard.kill_all)


async def test_a_backlog_of_one_user_keeps_nobody_waiting(few_slots: Callboard) -> None:
    many, one = fresh("many"), fresh("one")
    async with few_slots.client(many) as crowd, few_slots.client(one) as single:
        await _fill(crowd)
        waiting = await few_slots.query("SELECT count(*) AS n FROM runs WHERE user_id = $1 AND status = 'queued'", many)
        run = await single.start("key:single talk 10")
        await check_run(few_slots, single, run, readers=[await single.read(run)], text=TEXT)
        [before] = await few_slots.query(_STARTED_BETWEEN, one, run, many)
    print(f"{waiting[0]['n']} runs waited; {before['n']} of them started before the other user's only one")
    assert waiting[0]["n"] > BACKLOG / 2, "there was no backlog"
    # What had its wake-up already, and the one that takes its turn before.
    assert before["n"] <= 2 * SLOTS


async def _fill(client: FrontClient) -> None:
    gate = asyncio.Semaphore(AT_ONCE)

    async def post(number: int) -> None:
        body = run_input(f"key:{number} talk 500", thread=fresh("thread"), run=fresh("run"))
        async with gate:
            answer = await client.post_until_taken(body | {"forwardedProps": {"agentId": "chat"}})
        assert answer.status == 202, answer

    await asyncio.gather(*(post(number) for number in range(BACKLOG)))
