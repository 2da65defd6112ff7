"""Tool calls, pauses and answers, while workers, actors and fronts are killed around them."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import aio_pika
import pytest

from callboard_runtime.broker import topology
from callboard_runtime.domain.ids import session_uuid
from faults.conftest import PROCESSES, Buttons
from faults.support import check_calls, holder
from front_client import RUNS, TERMINAL, Answer, Frame, FrontClient, Json, Reader, fresh
from model_server import ANSWER, ModelServer
from promises import ENDED, check_messages, check_numbering, check_usage, ended
from stack import Callboard
from unit.agui_verifier import verify
from waiting import until

pytestmark = pytest.mark.timeout(240)


async def status(client: FrontClient, run: str, wanted: str) -> Json:
    """Wait until the run has this status."""

    async def has_it() -> Json | None:
        shown = await client.run(run)
        assert shown["status"] == wanted or shown["status"] not in ENDED, shown
        return shown if shown["status"] == wanted else None

    return await until(has_it, f"{run} {wanted}")


def interrupts(frame: Frame) -> list[Json]:
    """What a paused leg waits for."""
    assert frame.type == "RUN_FINISHED"
    return frame.event["outcome"]["interrupts"]


async def resume(client: FrontClient, run: str, *answers: Json, **more: Any) -> Answer:
    return await client.request("POST", f"{RUNS}/{run}/resume", {"answers": answers}, **more)


@asynccontextmanager
async def copies(
    callboard: Callboard, client: FrontClient, *threads: str
) -> AsyncGenerator[aio_pika.abc.AbstractQueue]:
    """A queue that gets a copy of every command which the broker from now on puts into these threads' partitions."""
    async with await aio_pika.connect(callboard.urls.amqp) as connection:
        queue = await (await connection.channel()).declare_queue(exclusive=True)
        for key in {topology.partition_key(session_uuid(client.user, thread)) for thread in threads}:
            await queue.bind(topology.SESSION_EXCHANGE, key)
        yield queue


async def routed(queue: aio_pika.abc.AbstractQueue, kind: str, count: int) -> None:
    """Wait until so many commands of this kind came by."""
    for _ in range(count):
        while (await until(lambda: queue.get(no_ack=True, fail=False), f"{count} {kind}")).type != kind:
            pass


async def check_legs(callboard: Callboard, client: FrontClient, thread: str, legs: int, text: str = ANSWER) -> None:
    """The session's only run ended well after so many legs, each lawful for a client of its own."""
    log = await client.log(thread)
    check_numbering(log)
    starts = [number for number, frame in enumerate(log) if frame.type == "RUN_STARTED"]
    assert len(starts) == sum(frame.type in TERMINAL for frame in log) == legs, [frame.type for frame in log]
    for first, last in zip(starts, [*starts[1:], len(log)], strict=True):
        verify(frame.event for frame in log[first:last])
    assert log[-1].event["outcome"] == {"type": "success"}
    assert (await client.messages(thread))[-1]["content"] == text
    await check_messages(client, thread)
    await check_usage(callboard, client, thread)
    results = [frame.event["toolCallId"] for frame in log if frame.type == "TOOL_CALL_RESULT"]
    assert len(results) == len(set(results)), "a call has one result"


async def test_a_tool_whose_process_died_is_not_run_again_unasked(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, buttons: Buttons
) -> None:
    thread, label = fresh("thread"), fresh("hold")
    run = await client.start(f"key:{key} call:press:{label}", thread=thread)
    await until(lambda: buttons.pressed(label), "the tool at work")
    (await holder(callboard, client, run)).kill()
    await status(client, run, "awaiting_input")
    assert buttons.pressed(label) == 1
    [interrupt] = interrupts((await client.log(thread))[-1])
    answer = {"interrupt_id": interrupt["id"], "status": "result", "payload": "somebody looked: it was pressed"}
    assert (await resume(client, run, answer)).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == 1
    await check_legs(callboard, client, thread, 2)
    await check_calls(client, model, key, thread, kills=0)
    [tool] = [message for message in await client.messages(thread) if message["role"] == "tool"]
    assert tool["content"] == answer["payload"]
    assert tool["content"] in str(model.of(key)[-1].body["messages"]), "the model is told"


@pytest.mark.parametrize(("outcome", "presses"), [("retry", 2), ("fail", 1)])
async def test_a_human_decides_about_an_unknown_outcome(
    callboard: Callboard, client: FrontClient, key: str, buttons: Buttons, outcome: str, presses: int
) -> None:
    thread, label = fresh("thread"), fresh("hold")
    run = await client.start(f"key:{key} call:press:{label}", thread=thread)
    await until(lambda: buttons.pressed(label), "the tool at work")
    (await holder(callboard, client, run)).kill()
    await status(client, run, "awaiting_input")
    buttons.let_go(label)
    [interrupt] = interrupts((await client.log(thread))[-1])
    assert (await resume(client, run, {"interrupt_id": interrupt["id"], "status": outcome})).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == presses
    await check_legs(callboard, client, thread, 2)


async def test_an_idempotent_tool_is_run_again(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, buttons: Buttons
) -> None:
    thread, label, sibling = fresh("thread"), fresh("hold"), fresh("label")
    run = await client.start(f"key:{key} call:press:{sibling} call:read:{label}", thread=thread)
    reader, task = client.follow(run)
    await until(lambda: buttons.pressed(label), "the tool at work")
    await until(lambda: any(frame.type == "TOOL_CALL_RESULT" for frame in reader.frames), "the other tool's result")
    (await holder(callboard, client, run)).kill()
    await until(lambda: buttons.pressed(label) == 2, "the tool at work again")
    buttons.let_go(label)
    await asyncio.wait_for(task, 60)
    assert reader.text == ANSWER
    assert (await ended(client, run))["status"] == "succeeded"
    await check_legs(callboard, client, thread, 1)
    assert buttons.pressed(sibling) == 1, "what was recorded is not done again"
    # The call that asked for the tools was recorded as well: it is replayed, not paid again.
    assert len(await check_calls(client, model, key, thread, kills=0)) == 2


async def test_everything_is_killed_during_a_pause(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, buttons: Buttons
) -> None:
    thread, label = fresh("thread"), fresh("label")
    run = await client.start(f"key:{key} call:launch:{label} call:press:{label}", thread=thread)
    paused = await client.read(run)
    [interrupt] = interrupts(paused.frames[-1])
    assert buttons.pressed(label) == 1, "the direct call ran before the pause"
    await status(client, run, "awaiting_input")
    callboard.kill_all()
    await asyncio.to_thread(callboard.ensure, **PROCESSES)
    answer = {"interrupt_id": interrupt["id"], "status": "approved"}
    assert (await resume(client, run, answer)).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == 2
    await check_legs(callboard, client, thread, 2)
    assert len(await check_calls(client, model, key, thread, kills=0)) == 2
    again = await resume(client, run, answer)
    assert again.status == 202, "the same answer again gets the first reply again"
    other = await resume(client, run, {"interrupt_id": interrupt["id"], "status": "rejected"})
    assert (other.status, other.code) == (409, "TOOL_RESULT_MISMATCH")
    assert buttons.pressed(label) == 2


async def test_a_rejected_call_is_never_run(
    callboard: Callboard, client: FrontClient, key: str, buttons: Buttons
) -> None:
    thread, label = fresh("thread"), fresh("label")
    run = await client.start(f"key:{key} call:launch:{label}", thread=thread)
    [interrupt] = interrupts((await client.read(run)).frames[-1])
    assert (await resume(client, run, {"interrupt_id": interrupt["id"], "status": "rejected"})).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == 0
    await check_legs(callboard, client, thread, 2)


async def test_the_approved_tools_worker_is_killed(
    callboard: Callboard, client: FrontClient, key: str, buttons: Buttons
) -> None:
    thread, label = fresh("thread"), fresh("hold")
    run = await client.start(f"key:{key} call:launch:{label}", thread=thread)
    [interrupt] = interrupts((await client.read(run)).frames[-1])
    assert (await resume(client, run, {"interrupt_id": interrupt["id"], "status": "approved"})).status == 202
    await until(lambda: buttons.pressed(label), "the approved tool at work")
    (await holder(callboard, client, run)).kill()
    await status(client, run, "awaiting_input")
    assert buttons.pressed(label) == 1, "an approval is for one run of the tool"
    [unknown] = interrupts((await client.log(thread))[-1])
    assert (await resume(client, run, {"interrupt_id": unknown["id"], "status": "fail"})).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == 1
    await check_legs(callboard, client, thread, 3)


async def test_one_of_many_answers_at_once_wins(
    callboard: Callboard, client: FrontClient, key: str, buttons: Buttons
) -> None:
    thread, label = fresh("thread"), fresh("label")
    run = await client.start(f"key:{key} call:launch:{label}", thread=thread)
    [interrupt] = interrupts((await client.read(run)).frames[-1])
    given = [{"interrupt_id": interrupt["id"], "status": said} for said in ("approved", "rejected")]
    answers = await asyncio.gather(
        *(resume(client, run, given[n % 2], base=callboard.fronts[n // 2 % 2]) for n in range(40))
    )
    by_kind = [{answer.status for answer in answers[kind::2]} for kind in (0, 1)]
    assert sorted(by_kind, key=max) == [{202}, {409}], by_kind
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == (1 if by_kind[0] == {202} else 0)
    await check_legs(callboard, client, thread, 2)


async def test_actors_are_killed_while_the_answer_is_on_its_way(
    callboard: Callboard, client: FrontClient, key: str, buttons: Buttons
) -> None:
    thread, label = fresh("thread"), fresh("label")
    run = await client.start(f"key:{key} call:launch:{label}", thread=thread)
    [interrupt] = interrupts((await client.read(run)).frames[-1])
    answer = {"interrupt_id": interrupt["id"], "status": "approved"}
    async with copies(callboard, client, thread) as commands:
        for actors in callboard.of("actors"):
            actors.pause()
        first = asyncio.create_task(resume(client, run, answer))
        await routed(commands, "AcceptResume", 1)
    assert (await client.run(run))["status"] == "awaiting_input", "nobody acted on the answer"
    for actors in callboard.of("actors"):
        actors.kill()
    await asyncio.to_thread(callboard.ensure, **PROCESSES)
    assert (await first).status in (202, 503)
    assert (await resume(client, run, answer)).status == 202
    reader: Reader = await client.read(run)
    assert reader.text == ANSWER
    assert (await ended(client, run))["status"] == "succeeded"
    assert buttons.pressed(label) == 1
    await check_legs(callboard, client, thread, 2)
