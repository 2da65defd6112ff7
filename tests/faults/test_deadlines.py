"""Bounds that end a run or a pause by themselves, whoever is dead: on a stack of its own with short ones."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest

from callboard_runtime.persistence import migrate
from faults.conftest import Buttons
from faults.support import check_calls, holder, idle
from faults.test_tools import interrupts, resume
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run, ended
from services.postgres import Databases
from services.session import Services
from shared_stacks import SharedStacks
from stack import Callboard, Urls
from waiting import until

pytestmark = pytest.mark.timeout(180)

HALF = "one two three"
SHORT = {
    "CALLBOARD_RUNS__DEADLINE": "6",
    "CALLBOARD_RUNS__START_DEADLINE": "3",
    "CALLBOARD_RUNS__TOOL_CALL_TTL": "600",
}


@pytest.fixture(scope="module")
def hurried(stack: Callboard, stacks: SharedStacks, services: Services) -> Iterator[Callboard]:
    """Processes with short bounds, on the servers of the other fault tests, in a database and vhost of their own."""
    database = Databases(services.private_postgres().url).create()
    migrate.upgrade(database)
    urls = Urls(database, services.private_rabbit().create_vhost(), stack.urls.redis)
    callboard = stacks.private("hurried", urls, {**stack.settings, **SHORT})
    yield callboard
    callboard.kill_all()


@pytest.fixture
async def user(hurried: Callboard) -> AsyncIterator[FrontClient]:
    await asyncio.to_thread(hurried.ensure, http=1, actors=1, worker=1)
    hurried.mark()
    async with hurried.client(fresh("user")) as client:
        yield client
    print(hurried.logs())  # shown for a failed test only


@pytest.mark.parametrize("blow", ["nothing", "frozen"])
async def test_a_run_ends_at_its_deadline(
    hurried: Callboard, user: FrontClient, model: ModelServer, key: str, blow: str
) -> None:
    run = await user.start(f"hold:{key}", thread=fresh("thread"))
    reader, task = user.follow(run)
    await until(lambda: HALF in reader.text, "half an answer")
    worker = await holder(hurried, user, run)
    if blow == "frozen":
        worker.pause()
    await asyncio.wait_for(task, 60)
    shown = await ended(user, run)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "RUN_DEADLINE")
    before = await check_run(hurried, user, run, readers=[reader], status="failed", text=HALF)
    model.release(key)
    worker.resume()
    await idle(hurried, worker)
    assert await check_run(hurried, user, run, readers=[reader], status="failed", text=HALF) == before
    [call] = await check_calls(user, model, key, shown["session_id"], kills=0)
    assert call["status"] in ("cancelled", "lost")


async def test_a_run_that_no_worker_takes_ends(hurried: Callboard, user: FrontClient) -> None:
    hurried.ensure(worker=0)
    run = await user.start("hello")
    reader = await user.read(run)
    shown = await ended(user, run)
    assert (shown["status"], shown["error"]["code"]) == ("failed", "RUN_DEADLINE")
    assert [frame.type for frame in reader.frames] == ["RUN_STARTED", "RUN_ERROR"]
    assert reader.frames[-1].event["code"] == "RUN_DEADLINE"


@pytest.fixture
def impatient(hurried: Callboard) -> Iterator[None]:
    """A worker that soon gives a silent model up."""
    usual = dict(hurried.settings)
    hurried.settings |= {"CALLBOARD_LLM__FIRST_TOKEN_TIMEOUT": "1", "CALLBOARD_LLM__RETRIES": "0"}
    hurried.ensure(worker=0)
    hurried.ensure(worker=1)
    yield
    hurried.settings = usual
    hurried.ensure(worker=0)


@pytest.mark.usefixtures("impatient")
async def test_a_model_that_stays_silent_ends_the_run(hurried: Callboard, user: FrontClient, key: str) -> None:
    run = await user.start(f"key:{key} pace:60000")
    reader = await user.read(run)
    shown = await check_run(hurried, user, run, readers=[reader], status="failed")
    assert shown["error"]["code"] == reader.frames[-1].event["code"] == "MODEL_TIMEOUT"
    [call] = await user.calls(shown["session_id"])
    assert (call["status"], call["estimated"]) == ("failed", True)


async def test_a_tool_that_takes_too_long_is_told_to_the_model(
    hurried: Callboard, user: FrontClient, model: ModelServer, key: str, buttons: Buttons
) -> None:
    label = fresh("hold")
    run = await user.start(f"key:{key} call:hurry:{label}")
    reader = await user.read(run)
    buttons.let_go(label)  # nothing can stop a function in its thread: it goes on, and nobody listens
    await check_run(hurried, user, run, readers=[reader], text=ANSWER)
    [result] = [frame.event["content"] for frame in reader.frames if frame.type == "TOOL_CALL_RESULT"]
    assert result == "Error: no result after 0.5 seconds; whether it took effect is not known"
    assert result in str(model.of(key)[-1].body["messages"])
    assert buttons.pressed(label) == 1


async def test_a_pause_does_not_count(hurried: Callboard, user: FrontClient, key: str, buttons: Buttons) -> None:
    label = fresh("label")
    run = await user.start(f"key:{key} call:launch:{label}")
    [interrupt] = interrupts((await user.read(run)).frames[-1])
    # Another run meets its deadline meanwhile: more time than a run has goes by.
    other = await user.start(f"hold:{key}")
    assert (await ended(user, other))["error"]["code"] == "RUN_DEADLINE"
    assert (await user.run(run))["status"] == "awaiting_input"
    assert (await resume(user, run, {"interrupt_id": interrupt["id"], "status": "approved"})).status == 202
    assert (await user.read(run)).text == ANSWER
    assert (await ended(user, run))["status"] == "succeeded"
    assert buttons.pressed(label) == 1
