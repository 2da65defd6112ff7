"""Runs over HTTP before a real actor process: acceptance, refusals, the native AG-UI endpoint."""

from __future__ import annotations

import asyncio
import io
import uuid
from datetime import timedelta

import orjson
import pytest
from ag_ui.core import EventType
from sqlalchemy import select

from callboard_http.deps import DEPS, SERVICES
from callboard_http.records import Records
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.domain.ids import run_uuid, session_uuid, task_id, utcnow
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import InvalidInput
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import Settings
from integration.api_stage import AGUI, RUNS, SESSIONS, Worker, body
from integration.http_harness import (
    USER,
    Backstage,
    Front,
    delta,
    events,
    headers,
    make_settings,
    serving,
)
from services import TcpProxy
from waiting import until


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
            "schema": True,
            "broker": True,
            "redis": True,
            "actors": False,
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
    await until(lambda: len(front.app[DEPS].streams) == 0)
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
