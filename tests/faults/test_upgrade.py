"""From the former release to this one while runs go on: the schema moves under the old code, and each reads the other.

The former release is a commit of this repository, run with its own code; a checkout without history cannot do that.
"""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from callboard_runtime.persistence import migrate
from faults.conftest import HERE, SETTINGS, Buttons
from faults.support import check_calls
from faults.test_tools import check_legs, interrupts, resume, status
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run, ended
from services.postgres import Databases
from services.session import Services
from shared_stacks import SharedStacks
from stack import Callboard, Urls, Zygote
from waiting import until

FORMER, ITS_SCHEMA = "6a12fc8d5cec", "0002"
ROOT = HERE.parents[1]

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def former(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Processes of the former release."""
    checkout = tmp_path_factory.mktemp("former")
    packed = subprocess.run(["git", "archive", FORMER], cwd=ROOT, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"this checkout has no history to take the former release ({FORMER}) from")
    subprocess.run(["tar", "x", "-C", checkout], input=packed.stdout, check=True)
    zygote = Zygote(checkout, checkout)
    yield zygote
    zygote.stop()


@pytest.fixture
def callboard(
    former: Zygote, stacks: SharedStacks, services: Services, model: ModelServer, tools_folder: Path, tmp_path: Path
) -> Iterator[Callboard]:
    """All processes of the former release, on its schema."""
    real = stacks.real()
    database = Databases(real.database).create()
    migrate.upgrade(database, ITS_SCHEMA)
    settings = SETTINGS | {
        "CALLBOARD_CONFIG__DIR": str(HERE / "config"),
        "CALLBOARD_TEST_TOOLS": str(tools_folder),
        "CALLBOARD_LLM__API_BASE__OPENAI": model.url,
        "CALLBOARD_WORKER__DRAIN": "1",  # the old worker gives its runs up in mid-answer
    }
    with Callboard(Urls(database, real.amqp, real.redis), tmp_path / "upgrade", former, settings) as callboard:
        callboard.ensure(http=1, actors=1, worker=1)
        yield callboard
        print(callboard.logs())  # shown for a failed test only


async def replace(callboard: Callboard, kind: str) -> None:
    """One new process beside the old one, which is then told to stop."""
    [old] = callboard.of(kind)
    await asyncio.to_thread(callboard.start, kind)
    assert await asyncio.to_thread(old.stop) == 0


async def test_a_release_replaces_the_former_one(
    callboard: Callboard, stacks: SharedStacks, model: ModelServer, key: str, buttons: Buttons
) -> None:
    async with callboard.client(fresh("user")) as client:
        thread, label, other = fresh("thread"), fresh("label"), fresh("key")
        paused = await client.start(f"key:{other} call:launch:{label} call:press:{label}", thread=thread)
        [interrupt] = interrupts((await client.read(paused)).frames[-1])
        await status(client, paused, "awaiting_input")
        held = await client.start(f"hold:{key}")
        reader, reading = client.follow(held)
        await until(lambda: "three" in reader.text, "half an answer")

        await asyncio.to_thread(migrate.upgrade, callboard.urls.database)
        await whole_run(callboard, client)  # old code on the new schema
        callboard.change_release(stacks.zygote)
        await replace(callboard, "worker")
        await whole_run(callboard, client)  # a new worker, old actors and fronts
        await replace(callboard, "actors")
        model.release(key)
        await asyncio.wait_for(reading, 60)
        await check_run(callboard, client, held, readers=[reader], text=ANSWER)
        await replace(callboard, "http")
        await whole_run(callboard, client)

        # The state, the journal and the pinned configuration of the run that paused are the former release's.
        answer = {"interrupt_id": interrupt["id"], "status": "approved"}
        assert (await resume(client, paused, answer)).status == 202
        assert (await ended(client, paused))["status"] == "succeeded"
        assert buttons.pressed(label) == 2
        await check_legs(callboard, client, thread, 2)
        assert len(await check_calls(client, model, other, thread, kills=0)) == 2


async def whole_run(callboard: Callboard, client: FrontClient) -> None:
    run = await client.start("hello")
    await check_run(callboard, client, run, readers=[await client.read(run)], text=ANSWER)
