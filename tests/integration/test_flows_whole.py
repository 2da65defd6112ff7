"""Flows as written for ag-ui-crewai on real workers, from the request over HTTP to the last event."""

import asyncio
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from callboard_runtime.domain.ids import session_uuid
from callboard_runtime.domain.state_snapshot import StateSnapshot
from flow_packages import SET_PLAN, flow_settings
from front_client import RUNS, FrontClient, fresh
from model_server import ANSWER, ModelServer, served_model
from promises import check_run, ended
from shared_stacks import SharedStacks
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with served_model() as server:
        yield server


@pytest.fixture(scope="module")
def callboard(stacks: SharedStacks, model: ModelServer) -> Iterator[Callboard]:
    """Two workers that run flows, beside what they need."""
    impatient = {"CALLBOARD_ACTORS__SILENT_AFTER": "3", "CALLBOARD_ACTORS__SWEEP": "0.25"}
    stack = stacks.private("flows", stacks.real(), flow_settings(model.url) | impatient)
    stack.ensure(http=1, actors=1, worker=2)
    yield stack
    print(stack.logs())  # shown for a failed test only
    stack.kill_all()


async def shared_state(callboard: Callboard, client: FrontClient, thread: str) -> Any:
    statement = "SELECT state_snapshot FROM sessions WHERE id = $1"
    [row] = await callboard.query(statement, session_uuid(client.user, thread))
    return StateSnapshot.load(orjson.loads(row["state_snapshot"])).shared_state


async def test_a_worker_killed_in_mid_answer(callboard: Callboard, client: FrontClient, model: ModelServer) -> None:
    model.served.clear()
    thread, key = fresh("thread"), fresh("key")
    run = await client.start(f"hold:{key}", thread=thread, agent="travel")
    reader, task = client.follow(run)
    await until(lambda: "one two three" in reader.text, "half an answer")
    statement = "SELECT process FROM run_attempts WHERE ended_at IS NULL"
    [attempt] = await callboard.query(statement)
    [holder] = [node for node in callboard.of("worker") if f"-{node.pid}-" in attempt["process"]]
    holder.kill()
    model.release(key)
    await asyncio.wait_for(task, 60)
    late = await client.read(run)
    await check_run(callboard, client, run, readers=[reader, late], text=ANSWER)
    assert len(model.of("draft")) == 1
    assert len(model.of(key)) == 2
    calls = [(call["stage"], call["status"]) for call in await client.calls(thread)]
    assert calls == [("draft", "recorded"), ("chat", "lost"), ("chat", "recorded")]
    assert await shared_state(callboard, client, thread) == {"plan": [], "drafts": 1}


async def test_the_next_run_goes_on_from_messages_and_state(
    callboard: Callboard, client: FrontClient, model: ModelServer
) -> None:
    model.served.clear()
    thread = fresh("thread")
    for number in (1, 2):
        run = await client.start(f"call:weather:place{number}", thread=thread, agent="travel")
        await check_run(callboard, client, run, readers=[await client.read(run)], text=ANSWER)
    asked = [message["role"] for message in model.served[-1].body["messages"]]
    assert asked == ["user", "assistant", "tool", "assistant", "user", "assistant", "tool"]
    assert await shared_state(callboard, client, thread) == {"plan": ["concluded"] * 2, "drafts": 2}


async def test_a_frontend_tool_is_answered_over_http(
    callboard: Callboard, client: FrontClient, model: ModelServer
) -> None:
    thread = fresh("thread")
    run = await client.start("call:set_plan:Oslo", thread=thread, agent="travel", tools=[SET_PLAN])
    seen = await client.read(run)
    [call] = [frame.event["toolCallId"] for frame in seen.frames if frame.type == "TOOL_CALL_START"]
    assert (await client.run(run))["status"] == "awaiting_input"
    answer = {"tool_call_id": call, "status": "result", "payload": "shown"}
    assert (await client.request("POST", f"{RUNS}/{run}/resume", {"answers": [answer]})).status == 202
    assert (await ended(client, run))["status"] == "succeeded"
    stored = [(m["role"], m["content"]) for m in await client.messages(thread)]
    assert stored == [("user", "call:set_plan:Oslo"), ("assistant", None), ("tool", "shown"), ("assistant", ANSWER)]
    asked = model.served[-1].body["messages"]
    assert [message["role"] for message in asked] == ["system", "user", "assistant", "tool"]
