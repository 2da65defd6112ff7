"""Real processes on real services: a run over HTTP from its 202 to its last event, alone and a hundred at once."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial

import pytest

from front_client import Frame, FrontClient, Json, Reader, fresh, run_input
from promises import check_log, check_run, ended, of_run
from shared_stacks import SharedStacks
from stack import Callboard
from waiting import until

MANY = 100
ENOUGH = 25  # on the embedded services, whose broker is for one developer's machine

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(params=["rabbitmq", "embedded"])
def callboard(request: pytest.FixtureRequest, stacks: SharedStacks) -> Iterator[Callboard]:
    stack = stacks.stack(request.param)
    yield stack
    print(stack.logs())  # shown for a failed test only


@pytest.fixture
def many(request: pytest.FixtureRequest) -> int:
    """How much at once: a hundred on the real services."""
    return MANY if request.node.callspec.params["callboard"] == "rabbitmq" else ENOUGH


def served(callboard: Callboard, text: str) -> list[Json]:
    """What the scripted model's ledger says of one message."""
    return [line for line in callboard.ledger() if line["message"] == text]


async def test_a_run_from_acceptance_to_its_last_event(callboard: Callboard, client: FrontClient) -> None:
    thread, text = fresh("thread"), f"count to 12 {fresh('')}"
    run = await client.start(text, thread=thread)
    reader = await client.read(run)
    shown = await check_run(callboard, client, run, readers=[reader], text=" ".join(map(str, range(1, 13))))
    assert [frame.type for frame in reader.frames[:3]] == ["RUN_STARTED", "STEP_STARTED", "TEXT_MESSAGE_START"]
    assert reader.frames[-1].event["outcome"] == {"type": "success"}
    [request] = served(callboard, text)
    usage = shown["usage"]
    assert usage == usage | {"calls": 1, **{name: request[name] for name in ("input_tokens", "output_tokens")}}
    assert reader.frames[-1].event["usage"][0]["totalTokens"] == usage["total_tokens"]


async def test_every_cut_can_be_resumed(callboard: Callboard, client: FrontClient) -> None:
    run = await client.start("think about cuts", agent="default")
    whole = (await client.read(run)).frames
    for number, frame in enumerate(whole[:-1]):
        rest = [later async for later in client.events(run, frame.id)]
        assert rest == whole[number + 1 :]


async def test_stages_and_conversation_memory(callboard: Callboard, client: FrontClient) -> None:
    thread = fresh("thread")
    first = await client.start("my name is Ada", thread=thread, agent="default")
    await check_run(callboard, client, first, readers=[await client.read(first)])
    second = await client.start("what is my name?", thread=thread, agent="default")
    await check_run(callboard, client, second, readers=[await client.read(second)])
    calls = await client.calls(thread)
    assert Counter(call["stage"] for call in calls) == {"intent": 2, "answer": 2}
    # The second turn's prompts hold the first turn, so they are longer by at least its answer.
    tokens = [call["input_tokens"] for call in calls if call["stage"] == "answer"]
    assert tokens[1] > tokens[0] + 10
    assert [m["role"] for m in await client.messages(thread)] == ["user", "assistant", "user", "assistant"]


async def test_text_arrives_while_the_model_still_speaks(callboard: Callboard, client: FrontClient) -> None:
    thread = fresh("thread")
    run = await client.start("hang after 3", thread=thread)
    reader, task = client.follow(run)
    # This model never ends its answer: whatever arrives, arrives before the end.
    await until(lambda: len(reader.text.split()) == 3, "three words of an endless answer")
    assert (await client.run(run))["status"] == "running"
    assert (await client.cancel(run)).status == 202
    await asyncio.wait_for(task, 60)
    await check_run(callboard, client, run, readers=[reader], status="cancelled", text="token1 token2 token3")
    [call] = await client.calls(thread)
    assert (call["status"], call["estimated"]) == ("cancelled", True)
    assert call["output_tokens"] > 0


async def test_a_hundred_sessions_at_once(callboard: Callboard, client: FrontClient, many: int) -> None:
    mark = fresh("mark")
    runs = await asyncio.gather(*(client.start(f"say 5 tokens {mark} {n}") for n in range(many)))
    readers = await asyncio.gather(*(client.read(run) for run in runs))
    expected = " ".join(f"token{n}" for n in range(1, 6))
    for run, reader in zip(runs, readers, strict=True):
        assert reader.text == expected
        await check_run(callboard, client, run, readers=[reader], text=expected)
    requests = [line for line in callboard.ledger() if mark in line["message"]]
    assert len(requests) == len({line["message"] for line in requests}) == many
    rows = await callboard.query("SELECT input_tokens, output_tokens FROM sessions WHERE user_id = $1", client.user)
    for name in ("input_tokens", "output_tokens"):
        assert sum(row[name] for row in rows) == sum(line[name] for line in requests)


async def test_a_hundred_runs_of_one_session_at_once(callboard: Callboard, client: FrontClient, many: int) -> None:
    thread, mark = fresh("thread"), fresh("mark")
    runs = await asyncio.gather(*(client.start(f"say 2 tokens {mark} {n}", thread=thread) for n in range(many)))
    readers = await asyncio.gather(*(client.read(run) for run in runs))
    log = await client.log(thread)
    for run, reader in zip(runs, readers, strict=True):
        check_log(of_run(log, run))
        assert reader.logged == of_run(log, run)
    assert Counter(frame.type for frame in log)["RUN_FINISHED"] == many
    await check_run(callboard, client, runs[0])
    messages = await client.messages(thread)
    assert [message["role"] for message in messages] == ["user", "assistant"] * many
    assert [message["run_id"] for message in messages[::2]] == started_in_order(log)
    requests = [line for line in callboard.ledger() if mark in line["message"]]
    assert len(requests) == len({line["message"] for line in requests}) == many
    assert sum(line["input_tokens"] for line in requests) == (await client.session(thread))["usage"]["input_tokens"]


def started_in_order(log: list[Frame]) -> list[str]:
    return [frame.event["runId"] for frame in log if frame.type == "RUN_STARTED"]


async def lists(callboard: Callboard, attempts: int) -> bool:
    """Whether the only worker says that it runs so many."""
    [worker] = callboard.of("worker")
    [row] = await callboard.query("SELECT attempts FROM processes WHERE id LIKE $1", f"%-{worker.pid}-%")
    return len(json.loads(row["attempts"])) == attempts


async def test_a_hundred_crews_at_once_in_one_worker(callboard: Callboard, client: FrontClient, many: int) -> None:
    runs = await asyncio.gather(*(client.start("hang after 2") for _ in range(many)))
    readers = [client.follow(run) for run in runs]
    # None of these answers ends by itself, so all of them are at work together once each has shown something.
    await until(lambda: all(len(reader.text.split()) == 2 for reader, _ in readers), "all crews speak", timeout=120)
    await until(partial(lists, callboard, many), "a heartbeat that lists all of them")
    answers = await asyncio.gather(*(client.cancel(run) for run in runs))
    assert {answer.status for answer in answers} == {202}
    for run, (reader, task) in zip(runs, readers, strict=True):
        await asyncio.wait_for(task, 60)
        await check_run(callboard, client, run, readers=[reader], status="cancelled", text="token1 token2")


async def test_the_same_run_a_hundred_times_is_one_run(callboard: Callboard, client: FrontClient) -> None:
    thread, run = fresh("thread"), fresh("run")
    body = run_input("hello", thread=thread, run=run, forwardedProps={"agentId": "chat"})
    answers = await asyncio.gather(*(client.post(body) for _ in range(MANY)))
    assert {answer.status for answer in answers} == {202}
    assert len({(answer.body["run_id"], answer.body["task_id"]) for answer in answers}) == 1
    reader: Reader = await client.read(run)
    await check_run(callboard, client, run, readers=[reader])
    again, other = await client.post(body), await client.post(body | {"context": [{"description": "d", "value": "v"}]})
    assert again.status == 202
    assert again.body["task_id"] == answers[0].body["task_id"]
    assert (other.status, other.code) == (409, "RUN_ID_CONFLICT")
    assert (await ended(client, run))["usage"]["calls"] == 1
