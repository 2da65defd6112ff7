"""Actors are killed and frozen between a run's acceptance and its end."""

import asyncio

import pytest

from faults.conftest import PROCESSES
from faults.support import attempts, check_calls, owner
from front_client import Answer, FrontClient, fresh, run_input
from model_server import ANSWER, ModelServer
from promises import check_run
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(240)

MANY = 20


async def test_all_killed_in_mid_answer(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread = fresh("thread")
    run = await client.start(f"hold:{key}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: model.held(key), "the model in mid-answer")
    for actors in callboard.of("actors"):
        actors.kill()
    model.release(key)
    await until(lambda: ANSWER in reader.text, "the live answer, without any actor")
    await asyncio.to_thread(callboard.ensure, **PROCESSES)
    await asyncio.wait_for(task, 90)
    await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert await attempts(callboard, client, run) == ["finished"], "the worker lived: nothing was to be repeated"
    await check_calls(client, model, key, thread, kills=0)


async def test_killed_right_after_it_accepted(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    runs = await asyncio.gather(*(client.start(f"key:{key} {n}") for n in range(MANY)))
    callboard.of("actors")[0].kill()
    readers = await asyncio.gather(*(client.read(run) for run in runs))
    for run, reader in zip(runs, readers, strict=True):
        await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert len(model.of(key)) == MANY, "no worker died: no call was to be repeated"


async def test_the_same_run_from_everywhere_while_one_is_killed(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread, run = fresh("thread"), fresh("run")
    await client.read(await client.start("hello", thread=thread))  # now somebody owns the partition
    body = run_input(f"key:{key}", thread=thread, run=run, forwardedProps={"agentId": "chat"})
    victim = await _owner_of(callboard, client, thread)
    posts = [asyncio.create_task(client.post(body, base=callboard.fronts[number % 2])) for number in range(100)]
    await asyncio.wait(posts, return_when=asyncio.FIRST_COMPLETED)
    victim.kill()
    answers: list[Answer] = await asyncio.gather(*posts)
    assert {answer.status for answer in answers} <= {202, 503}, answers
    assert (await client.post_until_taken(body)).status == 202
    assert len({answer.body["task_id"] for answer in answers if answer.status == 202}) <= 1
    reader = await client.read(run)
    await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert len(model.of(key)) == 1


async def test_frozen_and_woken_too_late_commits_nothing(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str
) -> None:
    thread = fresh("thread")
    first = await client.start(f"key:{key}", thread=thread)
    await check_run(callboard, client, first, readers=[await client.read(first)], text=ANSWER)
    frozen = await _owner_of(callboard, client, thread)
    frozen.pause()
    # These wait in the frozen process's socket; it finds them there when it wakes.
    runs = await asyncio.gather(*(client.start(f"key:{key} {n}", thread=thread) for n in range(3)))
    readers = await asyncio.gather(*(client.read(run) for run in runs))
    for run, reader in zip(runs, readers, strict=True):
        await check_run(callboard, client, run, readers=[reader], text=ANSWER)
    assert await _owner_of(callboard, client, thread) is not frozen
    log, messages = await client.log(thread), await client.messages(thread)
    offset = frozen.log.stat().st_size
    frozen.resume()
    await until(lambda: frozen.log.stat().st_size > offset, "the woken process notices")
    last = await client.start(f"key:{key} last", thread=thread)
    await check_run(callboard, client, last, readers=[await client.read(last)], text=ANSWER)
    assert (await client.log(thread))[: len(log)] == log
    assert (await client.messages(thread))[: len(messages)] == messages
    assert len(model.of(key)) == 5, "every run asked the model once"


async def _owner_of(callboard: Callboard, client: FrontClient, thread: str):
    """The thread's present actor process, once there is one."""
    return await until(lambda: owner(callboard, client, thread), "an owner of the partition")
