"""Looking at runs and sessions over HTTP, and ending them: pages, scopes, cancellation, deletion, CORS, metrics."""

from __future__ import annotations

import base64
import uuid
from decimal import Decimal
from typing import Any

import orjson
from sqlalchemy import select

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import HttpSettings, Settings
from integration.api_stage import RUNS, SESSIONS, Worker, body
from integration.http_harness import (
    USER,
    Backstage,
    Front,
    delta,
    events,
    headers,
    serving,
)


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
            {"limit": "9" * 5000},
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
