"""The client's calls before a real front and real actors; the worker's part is played by hand."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import select

from callboard_actors.wiring import actor_process
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.client import (
    BadRequest,
    CallboardClient,
    Conflict,
    Gone,
    LimitExceeded,
    NotFound,
    Patience,
    RunStatus,
    ServerLost,
    ToolAnswer,
    Unavailable,
)
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import batch
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import HttpSettings, Settings
from services import TcpProxy
from waiting import until

from .http_harness import USER, Backstage, Front, backstage, delta, headers, make_settings, serving
from .real_actors import running_actors, with_actors

PATIENCE = Patience(total=20, first=0.01, longest=0.1)
Proxies = Callable[[str], Awaitable[TcpProxy]]


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> Settings:
    return with_actors(make_settings(postgres_url, redis_url, redis_prefix, embedded_amqp_url))


@pytest.fixture
async def front(settings: Settings) -> AsyncIterator[Front]:
    async with running_actors(settings), serving(settings) as running:
        yield running


@pytest.fixture
async def client(front: Front) -> AsyncIterator[CallboardClient]:
    async with CallboardClient(front.url, token=token(), patience=PATIENCE) as made:
        yield made


@pytest.fixture
async def commands(settings: Settings) -> AsyncIterator[CommandClient]:
    client = await CommandClient.connect(settings.required_amqp_url(), "worker")
    yield client
    await client.close()


@pytest.fixture
async def stage(settings: Settings) -> AsyncIterator[Backstage]:
    async with backstage(settings) as hands:
        yield hands


def token(user: str = USER) -> str:
    return headers(user)["Authorization"].removeprefix("Bearer ")


class Worker:
    """One attempt of a run in thread `t1`: its commands go to the real actor."""

    def __init__(self, commands: CommandClient, run: str, leg: int = 1) -> None:
        self._commands, self._leg = commands, leg
        self._place: dict[str, Any] = {"session_id": session_uuid(USER, "t1"), "run_id": run_uuid(USER, run)}
        self._ordinal = 0

    async def start(self) -> Worker:
        command = c.StartRun(**self._place, leg=self._leg, attempt_id=uuid.uuid4(), process="w")
        answer = await self._commands.send(command, 10)
        assert isinstance(answer, c.StartAnswer)
        self._epoch, self._seq = answer.epoch, answer.opening.last_seq
        return self

    async def send(self, kind: type[Any], *shown: dict[str, Any], **fields: Any) -> c.Answer:
        events = batch(self._epoch, self._seq + 1, shown) if shown else None
        self._seq += len(shown)
        self._ordinal += 1
        return await self._commands.send(
            kind(**self._place, epoch=self._epoch, ordinal=self._ordinal, events=events, **fields), 10
        )


def approval(call: str) -> PendingToolCall:
    return PendingToolCall(
        tool_call_id=call, interrupt_id=f"int-{call}", tool_name="send", args={"to": "bob"}, message="Send?"
    )


def frontend(call: str) -> PendingToolCall:
    status, mode = ToolCallStatus.PENDING_RESULT, ToolMode.FRONTEND_EXECUTE
    return PendingToolCall(tool_call_id=call, tool_name="ui.pick", status=status, mode=mode)


async def runs_in(stage: Backstage) -> list[Any]:
    async with stage.engine.connect() as db:
        return list((await db.execute(select(t.RunRow))).all())


# -- posting ----------------------------------------------------------------------------------------------------------


async def test_a_posted_run_is_durable_and_carries_what_was_asked(client: CallboardClient, stage: Backstage) -> None:
    tool = {"name": "ui.pick", "description": "picks", "parameters": {"type": "object", "properties": {}}}
    run = await client.post_run("t1", "hello", agent_id="chat", tools=[tool], strategy="enqueue")
    assert (run.session_id, run.status, run.leg) == ("t1", RunStatus.QUEUED, 1)
    assert uuid.UUID(run.run_id)
    [row] = await runs_in(stage)
    assert (row.client_run_id, row.agent_id) == (run.run_id, "chat")
    assert row.input["messages"][0]["content"] == "hello"
    assert row.input["tools"] == [tool]


async def test_the_same_run_again_is_the_same_run(client: CallboardClient, stage: Backstage) -> None:
    answers = await asyncio.gather(*(client.post_run("t1", "hello", run_id="r1") for _ in range(20)))
    assert len(set(answers)) == 1
    assert len(await runs_in(stage)) == 1
    with pytest.raises(Conflict) as caught:
        await client.post_run("t1", "something else", run_id="r1")
    assert (caught.value.code, caught.value.status) == ("RUN_ID_CONFLICT", 409)


async def test_messages_may_be_given_in_full(client: CallboardClient, stage: Backstage) -> None:
    messages = [{"id": "m1", "role": "user", "content": "one"}, {"id": "m2", "role": "user", "content": "two"}]
    await client.post_run("t1", messages, run_id="r1")
    [row] = await runs_in(stage)
    assert [message["content"] for message in row.input["messages"]] == ["one", "two"]
    with pytest.raises(BadRequest, match="messages"):
        await client.post_run("t1", [{"role": "user", "content": "no id"}])


async def test_a_post_whose_answer_is_lost_is_sent_again(front: Front, stage: Backstage, tcp_proxy: Proxies) -> None:
    """The server takes the run, and the connection dies before it can say so."""
    proxy = await tcp_proxy(front.url)
    async with CallboardClient(proxy.url(front.url), token=token(), patience=PATIENCE) as client:
        proxy.delay(0.15)
        posting = asyncio.create_task(client.post_run("t1", "hello", run_id="r1"))
        await until(lambda: runs_in(stage), "the run's commit", timeout=20)
        await proxy.disconnect_all()
        proxy.delay(0)
        assert (await posting).run_id == "r1"
        await client.post_run("t1", "and again", run_id="r2")
    assert len(await runs_in(stage)) == 2


async def test_a_server_that_is_away_is_waited_for(front: Front, stage: Backstage, tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy(front.url)
    await proxy.refuse()
    async with CallboardClient(proxy.url(front.url), token=token(), patience=PATIENCE) as client:
        posting = asyncio.create_task(client.post_run("t1", "hello", run_id="r1"))
        await asyncio.sleep(0)
        assert not posting.done()
        await proxy.accept()
        assert (await posting).run_id == "r1"
    assert len(await runs_in(stage)) == 1


async def test_patience_with_a_server_ends(front: Front, tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy(front.url)
    await proxy.refuse()
    hasty = Patience(total=0.1, first=0.01)
    async with CallboardClient(proxy.url(front.url), token=token(), patience=hasty) as client:
        with pytest.raises(ServerLost):
            await client.post_run("t1", "hello")


async def test_a_503_is_tried_again_until_patience_ends(settings: Settings) -> None:
    """There are no actors: nothing is accepted, and the front says so within its time."""
    short = settings.model_copy(update={"http": HttpSettings(accept_timeout=0.1, heartbeat=0.3, drain=0.1)})
    patience = Patience(total=1.5, first=0.01)
    async with serving(short) as front, CallboardClient(front.url, token=token(), patience=patience) as client:
        with pytest.raises(Unavailable) as caught:
            await client.post_run("t1", "hello")
    assert caught.value.retry_after is not None


async def test_a_limit_is_told_with_its_time(settings: Settings, stage: Backstage) -> None:
    http = HttpSettings(runs_per_minute=1, heartbeat=0.3, drain=0.1)
    limited = settings.model_copy(update={"http": http})
    async with actor_process(settings), serving(limited) as front, CallboardClient(front.url, token=token()) as client:
        posts = [client.post_run("t1", "hello") for _ in range(3)]  # two may fall on either side of a full minute
        answers = await asyncio.gather(*posts, return_exceptions=True)
    limits = [error for error in answers if isinstance(error, LimitExceeded)]
    assert limits
    assert all(error.retry_after is not None and error.retry_after >= 1 for error in limits)


# -- looking and ending -----------------------------------------------------------------------------------------------


async def test_a_run_is_followed_and_looked_at(client: CallboardClient, commands: CommandClient) -> None:
    run = await client.post_run("t1", "hello", run_id="r1")
    worker = await Worker(commands, "r1").start()
    await worker.send(c.FinishRun, delta("hi"), status=RunStatus.SUCCEEDED)
    found = [event async for event in client.events(run.run_id)]
    assert [event.type for event in found] == ["RUN_STARTED", "TEXT_MESSAGE_CONTENT", "RUN_FINISHED"]
    assert "".join(event.delta for event in found) == "hi"
    view = await client.get_run("r1")
    assert (view.status, view.session_id, view.error) == (RunStatus.SUCCEEDED, "t1", None)
    assert view.legs[0].last_event_id == str(found[-1].id)
    assert (view.usage.total_tokens, view.usage.cost) == (0, Decimal(0))
    assert [event async for event in client.log("t1", page_size=2)] == found


async def test_cancel_is_answered(client: CallboardClient, commands: CommandClient) -> None:
    await client.post_run("t1", "hello", run_id="r1")
    worker = await Worker(commands, "r1").start()
    assert (await client.cancel("r1", "not needed")).status is RunStatus.CANCELLING
    await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED)
    assert (await client.cancel("r1")).status is RunStatus.CANCELLED


async def test_what_does_not_exist_is_not_found(client: CallboardClient) -> None:
    for call in (client.get_run("r9"), client.cancel("r9"), client.get_session("t9"), client.approve("r9", "i")):
        with pytest.raises(NotFound):
            await call


# -- answers ----------------------------------------------------------------------------------------------------------


async def test_an_approval_continues_the_run(client: CallboardClient, commands: CommandClient) -> None:
    await client.post_run("t1", "hello", run_id="r1")
    worker = await Worker(commands, "r1").start()
    await worker.send(c.RequestTools, calls=(approval("c1"), approval("c2")))
    *_, closing = [event async for event in client.events("r1")]
    assert [interrupt["id"] for interrupt in closing.interrupts] == ["int-c1", "int-c2"]
    assert closing.interrupts[0]["metadata"] == {"toolName": "send", "args": {"to": "bob"}}
    waiting = await client.approve("r1", "int-c1", edited_args={"to": "carol"})
    assert (waiting.status, waiting.run_id) == (RunStatus.AWAITING_INPUT, "r1")
    resumed = await client.reject("r1", "int-c2", reason="not today")
    assert (resumed.status, resumed.leg) == (RunStatus.QUEUED, 2)
    assert await client.reject("r1", "int-c2", reason="not today") == resumed
    with pytest.raises(Conflict) as caught:
        await client.approve("r1", "int-c2")
    assert caught.value.code == "TOOL_RESULT_MISMATCH"
    second = await Worker(commands, "r1", leg=2).start()
    await second.send(c.FinishRun, status=RunStatus.SUCCEEDED)
    types = [event.type async for event in client.events("r1")]
    assert (types[0], types[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    assert [leg.leg for leg in (await client.get_run("r1")).legs] == [1, 2]


async def test_a_result_that_is_early_is_sent_again(client: CallboardClient, commands: CommandClient) -> None:
    await client.post_run("t1", "hello", run_id="r1")
    worker = await Worker(commands, "r1").start()
    answering = asyncio.create_task(client.answer("r1", "c1", {"picked": 3}))
    await asyncio.sleep(0)
    await worker.send(c.RequestTools, calls=(frontend("c1"),))
    assert (await answering).leg == 2


async def test_a_leg_may_have_a_run_id_of_its_own(client: CallboardClient, commands: CommandClient) -> None:
    await client.post_run("t1", "hello", run_id="r1")
    worker = await Worker(commands, "r1").start()
    await worker.send(c.RequestTools, calls=(frontend("c1"),))
    *_, closing = [event async for event in client.events("r1")]
    assert closing.pending_tool_calls == ["c1"]
    answer = ToolAnswer(tool_call_id="c1", status="result", payload="ok")
    assert (await client.resume("r1", [answer], leg_run_id="r2")).run_id == "r2"
    second = await Worker(commands, "r1", leg=2).start()
    await second.send(c.FinishRun, status=RunStatus.SUCCEEDED)
    named = [event.data["runId"] async for event in client.events("r2") if "runId" in event.data]
    assert named == ["r2", "r2"]


# -- sessions ---------------------------------------------------------------------------------------------------------


async def test_messages_come_a_page_at_a_time(client: CallboardClient, commands: CommandClient) -> None:
    for number in range(3):
        await client.post_run("t1", f"question {number}", run_id=f"r{number}")
        worker = await Worker(commands, f"r{number}").start()
        said = NewMessage(message_id=f"a{number}", role="assistant", content=f"answer {number}")
        await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED, messages=(said,))
    found = [message async for message in client.messages("t1", page_size=2)]
    expected = [text for number in range(3) for text in (f"question {number}", f"answer {number}")]
    assert [message.content for message in found] == expected
    assert [message.seq for message in found] == [1, 2, 3, 4, 5, 6]
    assert [message.run_id for message in found] == ["r0", "r0", "r1", "r1", "r2", "r2"]
    assert [m.seq async for m in client.messages("t1", after=4, page_size=2)] == [5, 6]
    assert abs(found[0].created_at - datetime.now(UTC)) < timedelta(hours=1)


async def test_sessions_are_listed_and_deleted(client: CallboardClient) -> None:
    for thread in ("t1", "t2", "t3"):
        await client.post_run(thread, "hello")
    listed = [session.session_id async for session in client.sessions(page_size=2)]
    assert listed == ["t3", "t2", "t1"]
    assert (await client.get_session("t2")).message_count == 1
    await client.delete_session("t2")
    with pytest.raises(Gone):
        await client.get_session("t2")


async def test_a_client_that_is_not_open_says_so(front: Front) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await CallboardClient(front.url).get_run("r1")


async def test_a_shared_session_stays_open(front: Front) -> None:
    async with CallboardClient(front.url, token=token(), http=front.http) as first:
        await first.post_run("t1", "hello")
    async with CallboardClient(front.url, token=token("grace"), http=front.http) as second:
        assert [session async for session in second.sessions()] == []
    assert not front.http.closed
