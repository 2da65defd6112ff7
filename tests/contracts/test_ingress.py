"""Runs asked for over the broker, at real fronts and a real actor, on both brokers."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import aio_pika
import orjson
import pytest
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError
from sqlalchemy import text

from callboard_http.deps import SERVICES
from callboard_runtime.broker import topology
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import session_uuid
from callboard_runtime.settings import IngressSettings, Settings
from contracts.ingress_client import Integration, integration, run_input, token
from contracts.peers import partition_queues
from integration.api_stage import Worker, frontend
from integration.http_harness import USER, Front, headers, make_settings, serving
from integration.real_actors import running_actors, with_actors
from waiting import until

RUNS = "/api/v1/agent/runs"


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, broker_url: str) -> Settings:
    return with_actors(make_settings(postgres_url, redis_url, redis_prefix, broker_url))


@pytest.fixture
async def front(settings: Settings) -> AsyncIterator[Front]:
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def actors(settings: Settings) -> AsyncIterator[None]:
    async with running_actors(settings):
        yield


@pytest.fixture
async def app(front: Front, settings: Settings) -> AsyncIterator[Integration]:
    async with integration_of(settings) as one:
        yield one


def integration_of(settings: Settings) -> Any:
    return integration(settings.required_amqp_url())


async def rows(front: Front, sql: str) -> list[Any]:
    async with front.app[SERVICES].engine.connect() as db:
        return list((await db.execute(text(sql))).all())


# -- one run, whichever way -------------------------------------------------------------------------------------------


async def test_a_run_is_answered_as_over_http(actors: None, front: Front, app: Integration) -> None:
    reply = await app.ask(run_input())
    http = await front.call("POST", RUNS, json=run_input())
    assert (reply.status, http.status) == (202, 202)
    assert reply.json == http.json
    assert reply.json["events_url"] == f"{RUNS}/r1/events"
    assert (reply.message.content_type, reply.message.type) == ("application/json", "accepted")


async def test_fifty_over_each_way_at_once_are_one_run(actors: None, front: Front, settings: Settings) -> None:
    async with AsyncExitStack() as stack:
        other = await stack.enter_async_context(serving(settings))
        app = await stack.enter_async_context(integration_of(settings))
        asked = run_input("same", text="once")
        over_http = [(front, other)[number % 2].call("POST", RUNS, json=asked) for number in range(50)]
        over_amqp = [app.ask(asked) for _ in range(50)]
        answers = await asyncio.gather(*over_http, *over_amqp)
    assert {answer.status for answer in answers} == {202}
    assert len({orjson.dumps(answer.json, option=orjson.OPT_SORT_KEYS) for answer in answers}) == 1
    assert await rows(front, "SELECT client_run_id FROM runs") == [("same",)]
    assert await rows(front, "SELECT count(*) FROM messages") == [(1,)]
    assert await rows(front, "SELECT count(*) FROM outbox WHERE kind = 'wakeup'") == [(1,)]


async def test_without_reply_to_a_run_is_accepted_all_the_same(actors: None, front: Front, app: Integration) -> None:
    await app.send(run_input(), reply_to=None)

    async def is_there() -> bool:
        return (await front.call("GET", f"{RUNS}/r1")).status == 200

    await until(is_there)


async def test_the_header_picks_the_agent(actors: None, front: Front, app: Integration) -> None:
    reply = await app.ask(run_input(), headers={"authorization": token(), "agent-id": "nobody"})
    assert (reply.status, reply.json["code"]) == (404, "NOT_FOUND")
    assert "nobody" in reply.json["detail"]
    assert reply.message.content_type == "application/problem+json"


# -- answers and cancellation -----------------------------------------------------------------------------------------


async def test_a_cancel_over_the_broker(actors: None, front: Front, app: Integration) -> None:
    await app.ask(run_input())
    reply = await app.ask({"run_id": "r1", "reason": "changed my mind"}, key="cancel")
    assert (reply.status, reply.json["status"]) == (202, "cancelled")
    assert (await front.call("GET", f"{RUNS}/r1")).json["status"] == "cancelled"
    assert (await app.ask({"run_id": "other"}, key="cancel")).status == 404
    foreign = await app.ask({"run_id": "r1"}, key="cancel", headers={"authorization": token("mallory")})
    assert foreign.status == 404


async def test_a_resume_over_both_ways_at_once_is_one_answer(actors: None, front: Front, app: Integration) -> None:
    await app.ask(run_input())
    worker = await Worker.start(front.app[SERVICES].commands, "r1")
    await worker.send(c.RequestTools, calls=(frontend("call-1"),))
    answer = {"answers": [{"tool_call_id": "call-1", "status": "result", "payload": {"picked": 3}}]}
    asked = [app.ask({"run_id": "r1", "next_run_id": "r2"} | answer, key="resume") for _ in range(5)]
    over_http = [front.call("POST", f"{RUNS}/r1/resume", json={"run_id": "r2"} | answer) for _ in range(5)]
    replies = await asyncio.gather(*asked, *over_http)
    assert {(reply.status, reply.json["run_id"], reply.json["leg"]) for reply in replies} == {(202, "r2", 2)}
    late = await app.ask(
        {"run_id": "r1", "answers": [{"tool_call_id": "call-1", "status": "result", "payload": 4}]}, key="resume"
    )
    assert (late.status, late.json["code"]) == (409, "TOOL_RESULT_MISMATCH")


# -- refusals ---------------------------------------------------------------------------------------------------------


async def test_the_same_id_with_another_body_is_a_conflict(actors: None, front: Front, app: Integration) -> None:
    assert (await front.call("POST", RUNS, json=run_input())).status == 202
    reply = await app.ask(run_input(text="something else"))
    assert (reply.status, reply.json["code"]) == (409, "RUN_ID_CONFLICT")
    assert reply.json["instance"] == "callboard.ingress/run"
    assert reply.message.type == "problem"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "Bearer"),
        ({"authorization": "Bearer nonsense.that.fails"}, "cannot be read"),
        ({"authorization": token(seconds=-60)}, "expired"),
        ({"authorization": 7}, "must be text"),
    ],
)
async def test_who_cannot_say_who_they_are_is_refused(
    actors: None, app: Integration, caplog: pytest.LogCaptureFixture, given: dict[str, Any], says: str
) -> None:
    with caplog.at_level(logging.DEBUG, "callboard_http"):
        reply = await app.ask(run_input(), headers=given)
    assert reply.status in (400, 401)
    assert says in reply.json["detail"]
    assert "nonsense" not in caplog.text
    await eventually_empty(app)


async def eventually_empty(app: Integration) -> None:
    async def empty() -> bool:
        return not await app.waiting(topology.INGRESS_QUEUE)

    await until(empty)


@pytest.mark.parametrize(
    ("key", "body", "says"),
    [
        ("run", b"not json", "body: not JSON"),
        ("run", orjson.dumps(run_input() | {"threadId": "no spaces here"}), "threadId"),
        ("run", b'"\\u0000"', "NUL"),
        ("resume", orjson.dumps({"run_id": "r1"}), "answers"),
        ("cancel", b"{}", "run_id"),
    ],
)
async def test_what_cannot_be_read_is_answered_and_set_aside(
    actors: None, app: Integration, caplog: pytest.LogCaptureFixture, key: str, body: bytes, says: str
) -> None:
    reply = await app.ask(body, key=key, message_id="m-1", headers={"authorization": token(), "trace": "t"})
    assert (reply.status, reply.json["code"]) == (400, "INVALID_INPUT")
    assert says in reply.json["detail"]
    dead = await (await app.channel.get_queue(topology.DEAD_QUEUE)).get(timeout=20)
    assert dead is not None
    await dead.ack()
    assert dead.body == body
    assert (dead.message_id, dead.headers["trace"]) == ("m-1", "t")
    assert says in str(dead.headers[topology.H_DEAD_REASON])
    assert dead.headers[topology.H_DEAD_KEY] == key
    assert "authorization" not in dead.headers
    assert "Bearer" not in caplog.text


async def test_too_large_a_body_is_refused_and_not_kept(settings: Settings) -> None:
    small = settings.model_copy(update={"http": settings.http.model_copy(update={"max_body_bytes": 1024})})
    async with serving(small), integration_of(settings) as app:
        reply = await app.ask(run_input(text="x" * 2000))
        assert (reply.status, reply.json["code"]) == (413, "TOO_LARGE")
        assert await app.waiting(topology.DEAD_QUEUE) == 0


async def test_no_reply_goes_to_a_queue_of_ours(actors: None, front: Front, app: Integration) -> None:
    await app.send(run_input(), reply_to=topology.DEAD_QUEUE, headers={})
    assert (await app.ask(run_input())).status == 202  # the refusal before it was dealt with, too
    await eventually_empty(app)
    assert await app.waiting(topology.DEAD_QUEUE) == 0


# -- outages and limits -----------------------------------------------------------------------------------------------


def impatient(settings: Settings, **ingress: Any) -> Settings:
    http = settings.http.model_copy(update={"accept_timeout": 0.3})
    return settings.model_copy(update={"http": http, "ingress": IngressSettings(**ingress)})


async def test_a_request_is_held_until_an_actor_is_there(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "callboard_http.ingress")
    async with serving(impatient(settings)), integration_of(settings) as app:
        reply = await app.send(run_input())
        await until(lambda: "a request waits" in caplog.text)
        assert not reply.done()
        async with running_actors(settings):
            answer = await asyncio.wait_for(reply, 20)
    assert orjson.loads(answer.body)["run_id"] == "r1"
    assert answer.redelivered is False


async def test_a_request_of_a_front_that_stops_is_answered_by_another(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "callboard_http.ingress")
    async with AsyncExitStack() as stack:
        async with serving(impatient(settings)):
            app = await stack.enter_async_context(integration_of(settings))
            reply = await app.send(run_input())
            await until(lambda: "a request waits" in caplog.text)
        assert not reply.done()
        await stack.enter_async_context(running_actors(settings))
        await stack.enter_async_context(serving(settings))
        assert (await asyncio.wait_for(reply, 20)).headers["status"] == 202


async def test_a_full_queue_refuses_its_publisher(settings: Settings) -> None:
    """RabbitMQ notices a full quorum queue a moment late, so a publisher is refused soon rather than at once."""
    few = impatient(settings, prefetch=1, max_waiting=2)
    async with serving(few), integration_of(settings) as app:
        numbers = itertools.count()

        async def refused() -> bool:
            requests = (app.send(run_input(f"r{next(numbers)}")) for _ in range(20))
            sent = await asyncio.gather(*requests, return_exceptions=True)
            return any(isinstance(result, DeliveryError) for result in sent)

        await until(refused)


async def test_too_many_runs_of_one_user_are_refused_and_of_all_are_held(settings: Settings, actors: None) -> None:
    http = settings.http.model_copy(update={"max_queued_runs_per_user": 1, "max_queued_runs": 2})
    full = settings.model_copy(update={"http": http})
    async with serving(full) as front, integration_of(settings) as app:
        assert (await app.ask(run_input("r1"))).status == 202
        await until(lambda: refused_with(front, "ada", 429))
        late = await app.ask(run_input("r2", thread="t2"))
        assert (late.status, late.json["code"]) == (429, "LIMIT_EXCEEDED")
        assert late.json["retry_after"] > 0
        theirs = {"authorization": token("bob")}
        assert (await app.ask(run_input("b1"), headers=theirs)).status == 202
        await until(lambda: refused_with(front, "eve", 503))
        waiting = await app.send(run_input("e2"), headers={"authorization": token("eve")})
        assert (await app.ask({"run_id": "r1"}, key="cancel")).status == 202
        assert (await asyncio.wait_for(waiting, 20)).headers["status"] == 202


async def refused_with(front: Front, user: str, status: int) -> bool:
    """Whether a front refuses a run of the user, and accepted none of it; it counts once a second."""
    answer = await front.call("POST", RUNS, json=run_input("probe"), as_=headers(user))
    if answer.status == 202:
        await front.call("POST", f"{RUNS}/probe/cancel", as_=headers(user))
        return False
    assert int(answer.headers["Retry-After"]) > 0
    return answer.status == status


async def test_a_full_partition_is_503_with_retry_after_and_nothing_is_accepted(settings: Settings) -> None:
    """Commands that no actor takes fill their queue; what the broker refuses was not accepted."""
    partition = int(topology.partition_key(session_uuid(USER, "t1")))
    url = settings.required_amqp_url()
    async with partition_queues(url, partition, **{"x-max-length": 1}), serving(impatient(settings)) as front:
        # RabbitMQ learns that a quorum queue is full only after a burst: the first ones may all get in.
        bursts = ([run_input(f"r{burst}-{number}") for number in range(10)] for burst in range(2))
        answers = [
            answer
            for burst in bursts
            for answer in await asyncio.gather(*(front.call("POST", RUNS, json=body) for body in burst))
        ]
        assert {answer.status for answer in answers} == {503}
        assert all(int(answer.headers["Retry-After"]) > 0 for answer in answers)
        assert any("too many commands wait" in answer.json["detail"] for answer in answers)
        assert await rows(front, "SELECT count(*) FROM runs") == [(0,)]


async def test_ingress_can_be_switched_off(settings: Settings, broker_url: str) -> None:
    off = settings.model_copy(update={"ingress": IngressSettings(enabled=False)})
    async with serving(off), await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        with pytest.raises(ChannelNotFoundEntity):
            await channel.declare_queue(topology.INGRESS_QUEUE, passive=True)


async def test_answers_are_counted(actors: None, front: Front, app: Integration) -> None:
    await app.ask(run_input())
    await app.ask(b"{", key="run")
    shown = (await front.call("GET", "/metrics")).body.decode()
    assert 'callboard_http_ingress_total{key="run",status="202"} 1' in shown
    assert 'callboard_http_ingress_total{key="run",status="400"} 1' in shown
