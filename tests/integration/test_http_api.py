"""The HTTP surface before a real actor process: acceptance, errors, pages, scopes, the native AG-UI endpoint."""

from __future__ import annotations

import asyncio
import base64
import io
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from ag_ui.core import EventType
from sqlalchemy import select

from callboard_actors.wiring import actor_process
from callboard_http.deps import DEPS, SERVICES
from callboard_http.records import Records
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch, EventId, batch
from callboard_runtime.domain.ids import run_uuid, session_uuid, task_id, utcnow
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.errors import InvalidInput
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import ActorSettings, HttpSettings, LlmSettings, RunSettings, Settings
from services import TcpProxy

from .http_harness import (
    USER,
    Backstage,
    Front,
    backstage,
    delta,
    events,
    eventually,
    headers,
    make_settings,
    serving,
)

RUNS = "/api/v1/agent/runs"
SESSIONS = "/api/v1/agent/sessions"
AGUI = "/api/v1/agent/agui/default"


@pytest.fixture
def settings(postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str) -> Settings:
    made = make_settings(postgres_url, redis_url, redis_prefix, embedded_amqp_url)
    return made.model_copy(
        update={"llm": LlmSettings(default_model="scripted"), "actors": ActorSettings(standby_delay=0)}
    )


@pytest.fixture
async def actors(settings: Settings) -> AsyncIterator[None]:
    async with actor_process(settings) as process:
        duties = [asyncio.create_task(duty()) for duty in process.duties()]
        yield
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)


@pytest.fixture
async def front(settings: Settings, actors: None) -> AsyncIterator[Front]:
    async with serving(settings) as running:
        yield running


@pytest.fixture
async def stage(settings: Settings) -> AsyncIterator[Backstage]:
    async with backstage(settings) as hands:
        yield hands


def body(run: str = "r1", thread: str = "t1", text: str = "hello", **changes: Any) -> dict[str, Any]:
    message = {"id": f"m-{run}", "role": "user", "content": text}
    return {"threadId": thread, "runId": run, "messages": [message]} | changes


@dataclass
class Worker:
    """One attempt, played by hand: its commands go to the real actor."""

    commands: CommandClient
    run: str
    epoch: int
    seq: int
    opening: EventBatch
    leg: int = 1
    ordinal: int = 0

    @classmethod
    async def start(cls, commands: CommandClient, run: str, leg: int = 1, thread: str = "t1") -> Worker:
        command = c.StartRun(
            session_id=session_uuid(USER, thread),
            run_id=run_uuid(USER, run),
            leg=leg,
            attempt_id=uuid.uuid4(),
            process="w",
        )
        answer = await commands.send(command, 10)
        assert isinstance(answer, c.StartAnswer)
        return cls(commands, run, answer.epoch, answer.opening.last_seq, answer.opening, leg)

    async def send(self, kind: type[Any], *shown: dict[str, Any], **fields: Any) -> c.Answer:
        sent = batch(self.epoch, self.seq + 1, shown) if shown else None
        self.seq += len(shown)
        self.ordinal += 1
        place = {"session_id": session_uuid(USER, "t1"), "run_id": run_uuid(USER, self.run)}
        return await self.commands.send(
            kind(**place, epoch=self.epoch, ordinal=self.ordinal, events=sent, **fields), 10
        )

    async def show(self, stage: Backstage, sent: EventBatch, previous: EventId) -> None:
        place = (session_uuid(USER, "t1"), run_uuid(USER, self.run))
        await stage.tail.append(place[0], sent, committed=0, create=True)
        await stage.lanes.publish(*place, self.leg, sent, previous)


@pytest.fixture
async def commands(settings: Settings) -> AsyncIterator[CommandClient]:
    client = await CommandClient.connect(settings.required_amqp_url(), "worker")
    yield client
    await client.close()


# -- acceptance -------------------------------------------------------------------------------------------------------


async def test_202_follows_the_commit_and_says_where_to_look(front: Front, stage: Backstage):
    answer = await front.call("POST", RUNS, json=body())
    assert answer.status == 202
    expected = {
        "run_id": "r1",
        "session_id": "t1",
        "task_id": task_id(run_uuid(USER, "r1"), 1),
        "status": "queued",
        "leg": 1,
        "events_url": f"{RUNS}/r1/events",
    }
    assert answer.json == expected
    assert answer.headers["Location"] == f"{RUNS}/r1"
    async with stage.engine.connect() as db:
        row = (await db.execute(select(t.RunRow))).one()
    assert (row.client_run_id, row.user_id, row.input["messages"][0]["content"]) == ("r1", USER, "hello")


async def test_the_same_run_posted_a_hundred_times_at_once_is_one_run(front: Front, stage: Backstage):
    answers = await asyncio.gather(*(front.call("POST", RUNS, json=body()) for _ in range(100)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    async with stage.engine.connect() as db:
        assert len((await db.execute(select(t.RunRow))).all()) == 1


async def test_the_same_id_with_another_body_is_a_409(front: Front):
    await front.call("POST", RUNS, json=body())
    refused = await front.call("POST", RUNS, json=body(text="something else"))
    assert (refused.status, refused.json["code"]) == (409, "RUN_ID_CONFLICT")
    elsewhere = await front.call("POST", RUNS, json=body(thread="t2"))
    assert (elsewhere.status, elsewhere.json["code"]) == (409, "RUN_ID_CONFLICT")
    mine = await front.call("POST", RUNS, json=body(text="another user's"), as_=headers("bob"))
    assert mine.status == 202


async def test_what_the_actor_refuses_is_told_with_its_code(front: Front):
    await front.call("POST", RUNS, json=body())
    for changes, status, code in (
        ({"forwardedProps": {"multitaskStrategy": "reject"}}, 409, "SESSION_BUSY"),
        ({"forwardedProps": {"agentId": "nobody"}}, 404, "NOT_FOUND"),
    ):
        answer = await front.call("POST", RUNS, json=body("r2", **changes))
        assert (answer.status, answer.json["code"]) == (status, code)
    new = await front.call("POST", RUNS, json=body("r3", thread="t3", messages=[]))
    assert (new.status, new.json["code"]) == (400, "INVALID_INPUT")


async def test_ids_with_slashes_survive_the_urls(front: Front):
    answer = await front.call("POST", RUNS, json=body("a/b@c", thread="x/y"))
    assert answer.json["events_url"] == f"{RUNS}/a%2Fb%40c/events"
    shown = await front.call("GET", answer.headers["Location"])
    assert (shown.status, shown.json["run_id"], shown.json["session_id"]) == (200, "a/b@c", "x/y")


async def test_only_the_messages_that_the_session_lacks_are_sent(
    front: Front, stage: Backstage, commands: CommandClient
):
    first = body()
    await front.call("POST", RUNS, json=first)
    await (await Worker.start(commands, "r1")).send(c.FinishRun, status=RunStatus.SUCCEEDED)
    forged = {"id": "a-forged", "role": "assistant", "content": "I never said so"}
    history = [*first["messages"], forged, {"id": "m-2", "role": "user", "content": "and now?"}]
    assert (await front.call("POST", RUNS, json=body("r2", messages=history))).status == 202
    async with stage.engine.connect() as db:
        kept = (await db.execute(select(t.RunRow.input).where(t.RunRow.client_run_id == "r2"))).scalar_one()
    assert [message["message_id"] for message in kept["messages"]] == ["m-2"]


async def test_what_no_message_holds_is_fetched_by_the_actor(front: Front, stage: Backstage):
    """A history with long messages is larger than a command may be, and taken all the same; only once, as ever."""
    text = "word " * (500_000)
    large = orjson.dumps(body(text=text))
    answers = [await front.call("POST", RUNS, data=io.BytesIO(large)) for _ in range(2)]
    assert [answer.status for answer in answers] == [202, 202]
    assert answers[0].json == answers[1].json
    small = await front.call("POST", RUNS, json=body("r2"))
    assert small.status == 202, "the session's later commands wait for it, and go on"
    async with stage.engine.connect() as db:
        kept = (await db.execute(select(t.RunRow.input).where(t.RunRow.client_run_id == "r1"))).scalar_one()
        claims = (await db.execute(select(t.CommandClaimRow.session_id))).scalars().all()
    assert kept["messages"][0]["content"] == text
    assert set(claims) == {session_uuid(USER, "t1")}

    await front.call("DELETE", f"{SESSIONS}/t1")
    async with stage.engine.connect() as db:
        assert not (await db.execute(select(t.CommandClaimRow))).all(), "they are content of the session"


async def test_a_claim_to_nothing_or_to_another_sessions_command_is_refused(
    front: Front, stage: Backstage, commands: CommandClient
):
    later = utcnow() + timedelta(seconds=30)
    mine, other = session_uuid(USER, "t1"), session_uuid(USER, "t2")
    records = Records(stage.engine)
    delete = c.DeleteSession(session_id=other, user_id=USER, not_after=later)
    bodies = (c.encode_command(delete), c.encode_command(c.ClaimCheck(session_id=mine, claim_id=mine, not_after=later)))
    ids = [await records.keep_command(mine, kept) for kept in (*bodies, b"{}")]
    for claim_id in (*ids, uuid.uuid4()):
        with pytest.raises(InvalidInput):
            await commands.send(c.ClaimCheck(session_id=mine, claim_id=claim_id, not_after=later), 10)
    assert (await front.call("POST", RUNS, json=body())).status == 202, "the session goes on"


async def test_errors_are_problem_details(front: Front):
    for answer, status, code in (
        (await front.call("POST", RUNS, data=b"{"), 400, "INVALID_INPUT"),
        (await front.call("POST", RUNS, json=body(), as_={}), 401, "UNAUTHENTICATED"),
        (await front.call("GET", "/nowhere"), 404, "NOT_FOUND"),
        (await front.call("GET", f"{RUNS}/none"), 404, "NOT_FOUND"),
        (await front.call("GET", f"{RUNS}/a%20b"), 400, "INVALID_INPUT"),
        (await front.call("PUT", RUNS), 405, "METHOD_NOT_ALLOWED"),
        (await front.call("POST", RUNS, data=io.BytesIO(b"x" * (5 * 1024 * 1024))), 413, "TOO_LARGE"),
        (await front.call("POST", f"{RUNS}/none/cancel"), 404, "NOT_FOUND"),
        (await front.call("POST", f"{RUNS}/r1/resume", json={}), 400, "INVALID_INPUT"),
    ):
        assert (answer.status, answer.json["code"], answer.json["status"]) == (status, code, status)
        assert answer.headers["Content-Type"].startswith("application/problem+json")
        assert answer.json["detail"]
    assert (await front.call("GET", RUNS)).headers["Allow"] == "POST"


async def test_a_bug_shows_nothing_of_its_inside(front: Front, monkeypatch: pytest.MonkeyPatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("postgresql://ada:secret@db")

    monkeypatch.setattr(type(front.app[SERVICES].records), "run", broken)
    answer = await front.call("GET", f"{RUNS}/r1")
    assert (answer.status, answer.json["code"]) == (500, "INTERNAL")
    assert b"secret" not in answer.body
    assert answer.json["request_id"]


async def test_runs_per_minute_are_counted_over_all_fronts(settings: Settings, actors: None):
    few = settings.model_copy(update={"http": settings.http.model_copy(update={"runs_per_minute": 3})})
    async with serving(few) as one, serving(few) as other:
        answers = [
            await front.call("POST", RUNS, json=body(f"r{n}", f"t{n}")) for n, front in enumerate((one, other) * 4)
        ]
        assert sorted(a.status for a in answers)[:3] == [202] * 3
        refused = [answer for answer in answers if answer.status == 429]
        assert len(refused) >= 2  # 5, unless a minute ended in between
        assert all(0 < int(answer.headers["Retry-After"]) <= 60 for answer in refused)
        assert (await one.call("POST", RUNS, json=body(), as_=headers("bob"))).status == 202


async def test_too_many_waiting_runs_are_refused_before_acceptance(settings: Settings, actors: None):
    few = settings.model_copy(update={"http": settings.http.model_copy(update={"max_queued_runs": 1})})
    async with serving(few) as front:
        assert (await front.call("POST", RUNS, json=body())).status == 202
        front.app[SERVICES].limits._counted_at = float("-inf")
        refused = await front.call("POST", RUNS, json=body("r2", "t2"))
        assert (refused.status, refused.json["code"]) == (503, "UNAVAILABLE")
        assert int(refused.headers["Retry-After"]) > 0


async def test_without_an_actor_nothing_is_accepted(settings: Settings):
    hasty = settings.model_copy(update={"http": settings.http.model_copy(update={"accept_timeout": 0.5})})
    async with serving(hasty) as front:
        answer = await front.call("POST", RUNS, json=body())
        assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "UNAVAILABLE", "1")


async def test_without_database_or_broker_the_front_says_so(settings: Settings, tcp_proxy):
    proxies: list[TcpProxy] = [
        await tcp_proxy(settings.required_database_url()),
        await tcp_proxy(settings.required_amqp_url()),
    ]
    behind = make_settings(
        proxies[0].url(settings.required_database_url()),
        settings.required_redis_url(),
        settings.redis_prefix,
        proxies[1].url(settings.required_amqp_url()),
        accept_timeout=0.5,
    )
    async with serving(behind) as front:
        assert (await front.call("GET", "/readyz", as_={})).json["checks"] == {
            "database": True,
            "broker": True,
            "redis": True,
            "draining": False,
        }
        for proxy, what in zip(proxies, ("database", "broker"), strict=True):
            await proxy.refuse()
            answer = await front.call("POST", RUNS, json=body())
            assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "UNAVAILABLE", "1")
            unready = await front.call("GET", "/readyz", as_={})
            assert (unready.status, unready.json["checks"][what]) == (503, False)
            assert (await front.call("GET", "/healthz", as_={})).status == 200
            await proxy.accept()


# -- looking and cancelling -------------------------------------------------------------------------------------------


async def test_a_run_shows_its_legs_usage_and_money_as_text(front: Front, commands: CommandClient):
    await front.call("POST", RUNS, json=body())
    worker = await Worker.start(commands, "r1")
    step = c.StepBegin(key="s1", kind="model", name="answer", digest="d", provider="p", model="m")
    await worker.send(c.BeginStep, steps=(step,))
    usage = CallUsage(provider="p", model="m", input_tokens=10, output_tokens=5, cost=Decimal("0.10"))
    record = c.StepRecord(key="s1", result="x", usage=usage)
    reply = NewMessage(message_id="a1", role="assistant", content="hi")
    await worker.send(c.FinishRun, delta("x"), status=RunStatus.SUCCEEDED, records=(record,), messages=(reply,))
    shown = (await front.call("GET", f"{RUNS}/r1")).json
    assert (shown["status"], shown["error"], shown["ended_at"] is None) == ("succeeded", None, False)
    assert shown["usage"] == {
        "calls": 1,
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "cost": "0.1",
        "unpriced_calls": 0,
    }
    assert [(leg["leg"], leg["last_event_id"]) for leg in shown["legs"]] == [(1, f"1-{worker.seq + 1}")]
    session = (await front.call("GET", f"{SESSIONS}/t1")).json
    assert (session["usage"]["cost"], session["message_count"]) == ("0.1", 2)
    calls = (await front.call("GET", f"{SESSIONS}/t1/usage")).json
    assert [(call["run_id"], call["cost"], call["input_tokens"]) for call in calls["calls"]] == [("r1", "0.1", 10)]


async def test_cancel_is_answered_and_repeated(front: Front, commands: CommandClient):
    await front.call("POST", RUNS, json=body())
    async with front.stream(f"{RUNS}/r1/events?from=start") as response:
        first = await front.call("POST", f"{RUNS}/r1/cancel", json={"reason": "changed my mind"})
        assert (first.status, first.json["status"]) == (202, "cancelled")
        assert [event["type"] for _, event in await events(response)][-1] == "RUN_FINISHED"
    again = await front.call("POST", f"{RUNS}/r1/cancel")
    assert (again.status, again.json["status"]) == (202, "cancelled")


def forged(*rest: Any) -> str:
    """A position in a page that no page ever gave."""
    return base64.urlsafe_b64encode(orjson.dumps(["2026-01-01", str(uuid.UUID(int=0)), *rest])).decode()


async def test_pages_are_keyed_and_complete(front: Front, stage: Backstage, commands: CommandClient):
    for number in range(5):
        run = f"r{number}"
        await front.call("POST", RUNS, json=body(run, text=f"message {number}"))
        await (await Worker.start(commands, run)).send(c.FinishRun, delta("x"), status=RunStatus.SUCCEEDED)
        await front.call("POST", RUNS, json=body(f"other{number}", thread=f"o{number}"))

    async def pages(path: str, name: str) -> list[Any]:
        found, after = [], {}
        while True:
            page = (await front.call("GET", path, params={"limit": "2"} | after)).json
            assert len(page[name]) <= 2
            found += page[name]
            if page["next"] is None:
                return found
            after = {"after": page["next"]}

    listed = await pages(SESSIONS, "sessions")
    assert [item["session_id"] for item in listed] == ["o4", "t1", "o3", "o2", "o1", "o0"]
    told = await pages(f"{SESSIONS}/t1/messages", "messages")
    assert [(m["seq"], m["content"], m["run_id"]) for m in told] == [(n + 1, f"message {n}", f"r{n}") for n in range(5)]
    logged = await pages(f"{SESSIONS}/t1/events", "events")
    assert [e["id"] for e in logged] == [f"{epoch}-{seq}" for epoch in range(1, 6) for seq in range(1, 4)]
    assert {e["event"]["type"] for e in logged} == {"RUN_STARTED", "TEXT_MESSAGE_CONTENT", "RUN_FINISHED"}
    for path in (SESSIONS, f"{SESSIONS}/t1/usage", f"{SESSIONS}/t1/messages", f"{SESSIONS}/t1/events"):
        forged = base64.urlsafe_b64encode(orjson.dumps(["2026-01-01", str(uuid.UUID(int=0)), "\0", 2**63])).decode()
        for bad in (
            {"after": "@"},
            {"after": forged},
            {"limit": "0"},
            {"limit": "501"},
            {"limit": "x"},
            {"user": "\0"},
        ):
            assert (await front.call("GET", path, params=bad)).status == 400, (path, bad)


async def test_everything_is_scoped_by_user(front: Front, stage: Backstage):
    await front.call("POST", RUNS, json=body())
    for method, path in (
        ("GET", f"{RUNS}/r1"),
        ("GET", f"{RUNS}/r1/events"),
        ("POST", f"{RUNS}/r1/cancel"),
        ("POST", f"{RUNS}/r1/ticket"),
        ("GET", f"{SESSIONS}/t1"),
        ("GET", f"{SESSIONS}/t1/messages"),
        ("GET", f"{SESSIONS}/t1/events"),
        ("GET", f"{SESSIONS}/t1/usage"),
        ("DELETE", f"{SESSIONS}/t1"),
    ):
        for query in ({}, {"user": USER}):
            answer = await front.call(method, path, as_=headers("mallory"), params=query)
            assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND"), (method, path, query)
    assert (await front.call("GET", SESSIONS, as_=headers("mallory"))).json["sessions"] == []
    async with stage.engine.connect() as db:
        noted = (await db.execute(select(t.AuditRow.actor, t.AuditRow.action))).all()
    assert {tuple(row) for row in noted} == {("mallory", "access_refused")}
    assert len(noted) == 9


async def test_an_operator_reads_audited_and_writes_nothing(front: Front, stage: Backstage):
    await front.call("POST", RUNS, json=body())
    as_operator = headers("olga", "operator")
    shown = await front.call("GET", f"{RUNS}/r1", as_=as_operator, params={"user": USER})
    assert (shown.status, shown.json["run_id"]) == (200, "r1")
    assert (await front.call("GET", f"{RUNS}/r1", as_=as_operator)).status == 404
    refused = await front.call("POST", f"{RUNS}/r1/cancel", as_=as_operator, params={"user": USER})
    assert refused.status == 404
    async with stage.engine.connect() as db:
        noted = (await db.execute(select(t.AuditRow.action, t.AuditRow.subject).order_by(t.AuditRow.at))).all()
    assert [tuple(row) for row in noted] == [("operator_read", "ada: run r1"), ("access_refused", "ada: run r1")]


async def test_a_deleted_session_is_gone(front: Front):
    await front.call("POST", RUNS, json=body())
    async with front.stream(f"{RUNS}/r1/events?from=start") as response:
        assert (await front.call("DELETE", f"{SESSIONS}/t1")).status == 204
        assert [e.get("code") for _, e in await events(response)][-1] == "SESSION_DELETED"
    assert (await front.call("GET", f"{SESSIONS}/t1")).status == 410
    assert (await front.call("DELETE", f"{SESSIONS}/t1")).status == 204
    assert (await front.call("POST", RUNS, json=body("r9"))).status == 410
    assert (await front.call("DELETE", f"{SESSIONS}/none")).status == 404


async def test_cors_is_for_configured_origins_alone(settings: Settings):
    ui = HttpSettings(cors_origins=("https://ui.example",))
    preflight = {"Access-Control-Request-Method": "POST"}
    async with serving(settings.model_copy(update={"http": ui})) as front:
        for origin, allowed in (("https://ui.example", "https://ui.example"), ("https://evil.example", None)):
            for method, more in (("OPTIONS", preflight), ("GET", {})):
                answer = await front.call(method, "/healthz", as_={}, headers={"Origin": origin} | more)
                assert answer.headers.get("Access-Control-Allow-Origin") == allowed
                assert answer.headers["Vary"] == "Origin"
    async with serving(settings) as front:
        answer = await front.call("GET", "/healthz", as_={}, headers={"Origin": "https://ui.example"})
        assert "Access-Control-Allow-Origin" not in answer.headers


async def test_metrics_count(front: Front):
    await front.call("POST", RUNS, json=body())
    text = (await front.call("GET", "/metrics", as_={})).body.decode()
    assert "callboard_http_runs_accepted_total 1" in text
    assert f'callboard_http_requests_total{{route="{RUNS}",status="202"}} 1' in text


# -- the native AG-UI endpoint ----------------------------------------------------------------------------------------


async def test_agui_streams_the_run_that_it_accepts(front: Front, stage: Backstage, commands: CommandClient):
    async with front.http.post(front.url + AGUI, json=body(protocolVersion="1.0"), headers=headers()) as response:
        assert response.status == 200
        worker = await Worker.start(commands, "r1")
        await worker.show(stage, worker.opening, EventId(0, 0))
        assert [event["type"] for _, event in await events(response, 1)] == ["RUN_STARTED"]
        await worker.send(c.FinishRun, delta("x"), status=RunStatus.SUCCEEDED)
        told = await events(response)
    assert [event["type"] for _, event in told] == ["TEXT_MESSAGE_CONTENT", "RUN_FINISHED"]
    assert {event["type"] for _, event in told} <= {kind.value for kind in EventType}


async def test_agui_says_what_is_wrong_before_the_stream(front: Front):
    for sent, status in ((b"{", 400), (b'{"threadId":"t"}', 400)):
        async with front.http.post(front.url + AGUI, data=sent, headers=headers()) as response:
            assert (response.status, response.content_type) == (status, "application/problem+json")
    unknown = await front.call("POST", "/api/v1/agent/agui/nobody", json=body())
    assert (unknown.status, unknown.json["code"]) == (404, "NOT_FOUND")


async def test_leaving_an_agui_stream_does_not_cancel(front: Front, commands: CommandClient):
    async with front.http.post(front.url + AGUI, json=body(), headers=headers()) as response:
        assert response.status == 200
    await eventually(lambda: len(front.app[DEPS].streams) == 0)
    assert (await front.call("GET", f"{RUNS}/r1")).json["status"] == "queued"
    worker = await Worker.start(commands, "r1")
    await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED)
    async with front.http.post(front.url + AGUI, json=body(), headers=headers()) as response:
        assert [event["type"] for _, event in await events(response)] == ["RUN_STARTED", "RUN_FINISHED"]


async def test_agui_refuses_an_answer_that_nobody_asked_for_outside_the_log(front: Front, commands: CommandClient):
    stray = {"id": "t1", "role": "tool", "toolCallId": "c1", "content": "42"}
    async with front.http.post(front.url + AGUI, json=body(messages=[stray]), headers=headers()) as response:
        (first_id, first), (last_id, last) = await events(response)
    assert (first_id, last_id, first["type"]) == (None, None, "RUN_STARTED")
    assert (last["type"], last["code"]) == ("RUN_ERROR", "TOOL_RESULT_MISMATCH")
    rest = await front.call("POST", RUNS, json=body("r2", messages=[stray]))
    assert (rest.status, rest.json["code"]) == (409, "TOOL_RESULT_MISMATCH")


# -- pauses and answers -----------------------------------------------------------------------------------------------


def approval(call: str, **changes: Any) -> PendingToolCall:
    return PendingToolCall(tool_call_id=call, tool_name="refund", interrupt_id=f"int-{call}", args={"sum": 5}).but(
        **changes
    )


def frontend(call: str) -> PendingToolCall:
    return approval(
        call,
        interrupt_id=None,
        mode=ToolMode.FRONTEND_EXECUTE,
        status=ToolCallStatus.PENDING_RESULT,
        tool_name="ui.pick",
    )


async def paused(front: Front, commands: CommandClient, *calls: PendingToolCall) -> Worker:
    assert (await front.call("POST", RUNS, json=body())).status == 202
    worker = await Worker.start(commands, "r1")
    await worker.send(c.RequestTools, calls=calls)
    return worker


def tool_message(call: str, content: str = "42") -> dict[str, Any]:
    return {"id": f"t-{call}", "role": "tool", "toolCallId": call, "content": content}


def resolved(call: str, **payload: Any) -> dict[str, Any]:
    return {"interruptId": f"int-{call}", "status": "resolved", "payload": payload}


async def pending(front: Front, stage: Backstage) -> dict[str, str]:
    state = await front.app[SERVICES].records.state(USER, "t1")
    assert state is not None
    return {call.tool_call_id: str(call.status) for call in state.pending_tool_calls}


async def test_an_approval_is_answered_over_rest_and_again(front: Front, stage: Backstage, commands: CommandClient):
    await paused(front, commands, approval("c1"))
    answer = {"answers": [{"interrupt_id": "int-c1", "status": "approved"}]}
    first = await front.call("POST", f"{RUNS}/r1/resume", json=answer)
    assert (first.status, first.json["leg"], first.json["status"]) == (202, 2, "queued")
    assert (await front.call("POST", f"{RUNS}/r1/resume", json=answer)).body == first.body
    other = await front.call(
        "POST", f"{RUNS}/r1/resume", json={"answers": [{"interrupt_id": "int-c1", "status": "rejected"}]}
    )
    assert (other.status, other.json["code"]) == (409, "TOOL_RESULT_MISMATCH")
    worker = await Worker.start(commands, "r1", leg=2)
    await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED)
    shown = (await front.call("GET", f"{RUNS}/r1")).json
    assert ([leg["leg"] for leg in shown["legs"]], shown["status"]) == ([1, 2], "succeeded")


async def test_resume_says_what_is_wrong_with_its_body(front: Front, commands: CommandClient):
    await paused(front, commands, approval("c1"))
    for sent, status, code in (
        ({}, 400, "INVALID_INPUT"),
        ({"answers": [{"status": "approved"}]}, 400, "INVALID_INPUT"),
        ({"answers": [{"interrupt_id": "int-c1", "status": "sure"}]}, 400, "INVALID_INPUT"),
        ({"answers": [{"interrupt_id": "int-c1", "status": "approved"}], "run_id": "a b"}, 400, "INVALID_INPUT"),
        ({"answers": [{"interrupt_id": "int-c9", "status": "approved"}]}, 409, "TOOL_RESULT_MISMATCH"),
        ({"answers": [{"tool_call_id": "c1", "status": "result", "payload": "x" * 300_000}]}, 413, "TOO_LARGE"),
    ):
        answer = await front.call("POST", f"{RUNS}/r1/resume", data=io.BytesIO(orjson.dumps(sent)))
        assert (answer.status, answer.json["code"]) == (status, code), sent


async def test_an_answer_before_the_pause_is_told_to_come_back(front: Front, commands: CommandClient):
    await front.call("POST", RUNS, json=body())
    worker = await Worker.start(commands, "r1")
    sent = body("r2", messages=[tool_message("c1")])
    early = await front.call("POST", RUNS, json=sent)
    assert (early.status, early.json["code"]) == (409, "NOT_PENDING_YET")
    assert int(early.headers["Retry-After"]) >= 1
    await worker.send(c.RequestTools, calls=(frontend("c1"),))
    assert (await front.call("POST", RUNS, json=sent)).json["leg"] == 2


async def test_a_frontend_result_under_a_new_run_id_streams_the_next_leg(
    front: Front, stage: Backstage, commands: CommandClient
):
    await paused(front, commands, frontend("c1"))
    call = {"id": "a1", "role": "assistant", "toolCalls": [{"id": "c1"}]}
    sent = body("r2", messages=[*body()["messages"], call, tool_message("c1")])
    async with front.http.post(front.url + AGUI, json=sent, headers=headers()) as response:
        worker = await Worker.start(commands, "r1", leg=2)
        await worker.send(c.FinishRun, status=RunStatus.SUCCEEDED)
        told = [event for _, event in await events(response)]
    assert (told[0]["type"], told[0]["runId"], told[-1]["type"]) == ("RUN_STARTED", "r2", "RUN_FINISHED")
    assert (await front.call("GET", f"{RUNS}/r2")).json["run_id"] == "r1"


async def test_partial_answers_are_kept_and_the_rest_is_asked_for_again(
    front: Front, stage: Backstage, commands: CommandClient
):
    await paused(front, commands, frontend("c1"), approval("c2"))
    async with front.http.post(
        front.url + AGUI, json=body("r2", messages=[tool_message("c1")], protocolVersion="1.0"), headers=headers()
    ) as response:
        (first_id, first), (last_id, last) = await events(response)
    assert (first_id, last_id, first["type"], last["runId"]) == (None, None, "RUN_STARTED", "r2")
    assert [(i["id"], i["toolCallId"]) for i in last["outcome"]["interrupts"]] == [("int-c2", "c2")]
    assert await pending(front, stage) == {"c1": "EXECUTED", "c2": "PENDING_APPROVAL"}
    partly = await front.call("POST", RUNS, json=body("r2", messages=[tool_message("c1")]))
    assert (partly.status, partly.json["status"], partly.json["run_id"]) == (202, "awaiting_input", "r1")


async def test_copilotkits_synthetic_tool_message_is_not_taken_for_a_result(
    front: Front, stage: Backstage, commands: CommandClient
):
    """It resumes under the paused run's own runId, with a tool message that repeats its answer to the approval."""
    await paused(front, commands, approval("c1"), frontend("c2"))
    history = [
        *body()["messages"],
        {"id": "a1", "role": "assistant"},
        tool_message("c1", '{"approved":true}'),
        tool_message("c2"),
    ]
    sent = body("r1", messages=history, resume=[resolved("c1", approved=True, editedArgs={"sum": 4})])
    answer = await front.call("POST", RUNS, json=sent)
    assert (answer.status, answer.json["run_id"], answer.json["leg"]) == (202, "r1", 2)
    assert (await front.call("POST", RUNS, json=sent)).body == answer.body
    messages = (await front.call("GET", f"{SESSIONS}/t1/messages")).json["messages"]
    assert [m["tool_call_id"] for m in messages if m["role"] == "tool"] == ["c2"]


async def test_an_approver_decides_by_interrupt_alone(settings: Settings, commands: CommandClient, stage: Backstage):
    runs = RunSettings(approver_roles=("boss",))
    strict = settings.model_copy(update={"runs": runs})
    async with actor_process(strict) as process, serving(strict) as front:
        duties = [asyncio.create_task(duty()) for duty in process.duties()]
        await paused(front, commands, approval("c1"), frontend("c2"))
        by_id = {"answers": [{"interrupt_id": "int-c1", "status": "approved"}]}
        resume = f"{RUNS}/r1/resume?user={USER}"
        own = await front.call("POST", resume, json=by_id)
        assert (own.status, own.json["code"]) == (409, "TOOL_RESULT_MISMATCH")
        assert (await front.call("POST", resume, json=by_id, as_=headers("eve"))).status == 404
        as_boss = headers("bea", "boss")
        by_call = {"answers": [{"tool_call_id": "c2", "status": "result", "payload": "forged"}]}
        assert (await front.call("POST", resume, json=by_call, as_=as_boss)).status == 400
        assert (await front.call("POST", resume, json=by_id, as_=as_boss)).status == 202
        assert await pending(front, stage) == {"c1": "APPROVED", "c2": "PENDING_RESULT"}
        assert (await front.call("POST", f"{RUNS}/r1/cancel?user={USER}", as_=as_boss)).status == 404
        for duty in duties:
            duty.cancel()
        await asyncio.gather(*duties, return_exceptions=True)
