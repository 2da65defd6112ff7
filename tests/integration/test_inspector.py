"""What operators see over HTTP: everybody's sessions and runs, bounded, noted, and for nobody else."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from typing import Any

import aio_pika
import pytest
from sqlalchemy import delete, insert, select, text, update

from callboard_http.routes import operator, operator_system
from callboard_runtime.broker import topology
from callboard_runtime.broker.topology_setup import declare, declare_ingress
from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.domain.state_snapshot import PendingToolCall, StateSnapshot, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.embedded.amqp import EmbeddedBroker
from callboard_runtime.errors import Unavailable
from callboard_runtime.inspection import database
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import IngressSettings, Settings

from .http_harness import Backstage, Front, backstage, headers, make_settings, serving

OPERATOR = "/api/v1/operator"
ROUTES = [route.path for route in (*operator.ROUTES, *operator_system.ROUTES)]
SECRET_WORDS = "what nobody but the owner and a noted operator may read"


def as_operator() -> dict[str, str]:
    return headers("olga", "operator")


async def get(front: Front, path: str, **kwargs: Any) -> Any:
    """The JSON that an operator gets."""
    answer = await front.call("GET", OPERATOR + path, as_=as_operator(), **kwargs)
    assert answer.status == 200, answer.body
    return answer.json


async def audit(stage: Backstage) -> list[Any]:
    async with stage.engine.connect() as connection:
        return list(await connection.execute(select(t.AuditRow).order_by(t.AuditRow.at)))


async def set_session(stage: Backstage, thread: str, user: str, **values: Any) -> None:
    mine = t.SessionRow.id == session_uuid(user, thread)
    await stage.execute(update(t.SessionRow).where(mine).values(**values))


async def pages(front: Front, path: str, name: str) -> list[Any]:
    """Every item, two at a time."""
    found: list[Any] = []
    after = ""
    for _ in range(50):
        page = await get(front, f"{path}{'&' if '?' in path else '?'}limit=2{after}")
        assert len(page[name]) <= 2
        found += page[name]
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"
    raise AssertionError("the pages do not end")


# -- for operators alone ----------------------------------------------------------------------------------------------


async def test_nobody_but_an_operator_gets_anything(front: Front, stage: Backstage) -> None:
    leg = await stage.add_run(user="ada")
    asked = 0
    for route in ROUTES:
        named = leg.key.session_id if "sessions" in route else leg.key.run_id
        path = route.replace("{internal_id}", str(named)).replace("{letter}", "d0")
        assert (await front.call("GET", path, as_={})).status == 401
        for who in (headers("ada"), headers("eve", "approver", "Operator")):
            answer = await front.call("GET", path, as_=who)
            assert (answer.status, answer.json["code"]) == (404, "NOT_FOUND"), path
            asked += 1
        assert (await front.call("POST", path, as_=as_operator(), json={})).status == 405
    noted = [(row.actor, row.action) for row in await audit(stage)]
    assert noted == [("ada", "access_refused"), ("eve", "access_refused")] * len(ROUTES)
    assert len(noted) == asked > 15


WRONG = {
    "/sessions?status=busy": "status",
    "/sessions?status=": "status",
    "/sessions?user=": "user",
    "/sessions?limit=201": "limit",
    "/sessions?after=xyz": "after",
    "/sessions?after=WyJhIiwiYiJd": "after",
    "/runs?newer_than=soon": "newer_than",
    "/runs?older_than=5y": "older_than",
    "/runs?session=t1": "session",
    "/runs?agent=a%00b": "agent",
    "/runs/r1": "internal_id",
    "/approvals?limit=0": "limit",
    "/webhooks?status=late": "status",
    "/webhooks?after=xyz": "after",
    "/dead-letters?limit=x": "limit",
    "/dead-letters/a-b": "letter",
}


async def test_what_cannot_be_meant_is_refused_by_name(front: Front) -> None:
    for query, field in WRONG.items():
        answer = await front.call("GET", OPERATOR + query, as_=as_operator())
        assert (answer.status, answer.json["code"]) == (400, "INVALID_INPUT"), query
        assert answer.json["detail"].startswith(f"{field}: "), query


async def test_the_page_is_for_everybody_and_loads_nothing_from_elsewhere(front: Front) -> None:
    page = await front.call("GET", "/inspector", as_={})
    policy = page.headers["Content-Security-Policy"]
    assert page.status == 200
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert b"//" not in page.body
    for name in re.findall(rb'(?:src|href)="((?:inspector|playground)/[^"]+)"', page.body):
        assert (await front.call("GET", f"/{name.decode()}", as_={})).status == 200, name
    known = await front.call("GET", "/inspector", as_={}, headers={"If-None-Match": page.headers["Etag"]})
    assert (known.status, known.body) == (304, b"")
    for wrong in ("..%2F__init__.py", "nothing.js", "views"):
        assert (await front.call("GET", f"/inspector/{wrong}", as_={})).status == 404


# -- lists ------------------------------------------------------------------------------------------------------------


async def test_sessions_of_all_users_page_by_page(front: Front, stage: Backstage) -> None:
    now = utcnow()
    statuses = ("idle", "active", "awaiting_input", "idle", "deleted", "idle")
    for number, status in enumerate(statuses):
        user, thread = f"user{number % 2}", f"t{number}"
        await stage.add_run(thread, f"r{number}", user)
        moment = now - timedelta(seconds=number // 2)  # pairs of the same moment
        deleted = now if status == "deleted" else None
        await set_session(stage, thread, user, status=status, updated_at=moment, title=SECRET_WORDS, deleted_at=deleted)

    async def names(query: str) -> list[str]:
        return [session["session_id"] for session in await pages(front, f"/sessions{query}", "sessions")]

    assert sorted((await names(""))[:2]) == ["t0", "t1"]
    assert sorted(await names("")) == ["t0", "t1", "t2", "t3", "t5"]
    assert sorted(await names("?user=user1")) == ["t1", "t3", "t5"]
    assert await names("?status=active,awaiting_input") == ["t1", "t2"]
    assert await names("?status=deleted") == ["t4"]
    assert await names("?user=nobody") == []
    assert SECRET_WORDS not in json.dumps(await get(front, "/sessions"))
    assert [row for row in await audit(stage) if row.action == "operator_read"] == []


async def test_runs_by_status_agent_age_and_session(front: Front, stage: Backstage) -> None:
    now = utcnow()
    given = [("queued", "chat", 5), ("failed", "chat", 50), ("failed", "demo", 500), ("succeeded", "demo", 5000)]
    for number, (status, agent, age) in enumerate(given):
        moment = now - timedelta(seconds=age)
        columns = {"agent_id": agent, "created_at": moment, "input": {"text": SECRET_WORDS}}
        await stage.add_run(f"t{number % 2}", f"r{number}", "ada", status, **columns)

    async def names(query: str = "") -> list[str]:
        return [run["run_id"] for run in await pages(front, f"/runs{query}", "runs")]

    assert await names() == ["r0", "r1", "r2", "r3"]
    assert await names("?status=failed,succeeded") == ["r1", "r2", "r3"]
    assert await names("?agent=demo") == ["r2", "r3"]
    assert await names("?newer_than=10m") == ["r0", "r1", "r2"]
    assert await names("?older_than=40s&status=failed") == ["r1", "r2"]
    assert await names(f"?session={session_uuid('ada', 't1')}") == ["r1", "r3"]
    assert await names(f"?session={session_uuid('ada', 't1')}&agent=demo") == ["r3"]
    assert SECRET_WORDS not in json.dumps(await get(front, "/runs"))


# -- one run ----------------------------------------------------------------------------------------------------------


@dataclass
class Furnished:
    run: str
    session: str


@pytest.fixture
async def run(stage: Backstage) -> Furnished:
    """A run of two attempts, with a journal, calls, a message and an open approval."""
    leg = await stage.add_run(user="ada", run="r1", status="awaiting_input", config={"key": "never shown"})
    await stage.begin(leg, 1)
    await stage.take_epoch(leg, 2)
    run_id, session_id = leg.key.run_id, leg.key.session_id
    place = {"run_id": run_id, "epoch": 1}
    step = {**place, "digest": "d", "status": "recorded", "recorded_at": utcnow()}
    await stage.execute(
        insert(t.RunStepRow).values(**step, key="a#1", kind="model", name="a", result={"text": "x" * 9000})
    )
    await stage.execute(
        insert(t.RunStepRow).values(**step, key="tool:c1", kind="tool", name="refund", result={"content": "done"})
    )
    call = {**place, "session_id": session_id, "stage": "a", "provider": "p", "model": "m", "status": "recorded"}
    priced = {"cost": Decimal("0.00120"), "input_tokens": 10, "latency_ms": 70}
    await stage.execute(insert(t.LlmCallRow).values(**call, **priced, key="a#1"))
    await stage.execute(insert(t.LlmCallRow).values(**call | {"epoch": 2}, key="a#1", cost=None))
    message = {"session_id": session_id, "run_id": run_id, "seq": 1, "message_id": "m1", "role": "user"}
    await stage.execute(insert(t.MessageRow).values(**message, content=SECRET_WORDS))
    noted = {"id": uuid.uuid4(), "session_id": session_id, "run_id": run_id, "details": {"tool": "refund"}}
    await stage.execute(insert(t.AuditRow).values(**noted, actor="ada", action="tool_call.approved", subject="c0"))
    await set_session(stage, "t1", "ada", status="awaiting_input", state_snapshot=_waiting(str(run_id)).to_json())
    await stage.execute(update(t.RunRow).values(status="awaiting_input"))
    return Furnished(str(run_id), str(session_id))


def _waiting(run_id: str) -> StateSnapshot:
    approval = PendingToolCall(
        tool_call_id="c2", tool_name="refund", args={"amount": SECRET_WORDS}, run_id=run_id, interrupt_id="int_1"
    )
    of_client = approval.but(
        tool_call_id="c3", mode=ToolMode.FRONTEND_EXECUTE, status=ToolCallStatus.PENDING_RESULT, interrupt_id=None
    )
    done = approval.but(tool_call_id="c4", status=ToolCallStatus.APPROVED, interrupt_id="int_2")
    return StateSnapshot.new(pending_tool_calls=(approval, of_client, done))


async def test_one_run_whole(front: Front, run: Furnished) -> None:
    detail = await get(front, f"/runs/{run.run}")
    assert detail["run"]["run_id"] == "r1"
    assert [(step["kind"], step["name"]) for step in detail["steps"]] == [("model", "a"), ("tool", "refund")]
    assert len(detail["steps"][0]["result"]) == 4000 < detail["steps"][0]["result_length"]
    assert [call["cost"] for call in detail["calls"]] == ["0.0012", None]
    assert [attempt["epoch"] for attempt in detail["attempts"]] == [1, 2]
    assert [message["content"] for message in detail["messages"]] == [SECRET_WORDS]
    assert {call["tool_call_id"]: call["interrupt_id"] for call in detail["open_calls"]} == {"c2": "int_1", "c3": None}
    assert [row["action"] for row in detail["audit"]] == ["tool_call.approved"]
    assert detail["cut"] == []
    assert "never shown" not in json.dumps(detail)


async def test_each_look_at_content_is_noted_and_seeing_no_change_is_no_look(
    front: Front, stage: Backstage, run: Furnished
) -> None:
    async def look(path: str, tag: str = "") -> Any:
        extra = {"If-None-Match": tag} if tag else {}
        return await front.call("GET", OPERATOR + path, as_=as_operator() | extra)

    async def looks() -> list[tuple[Any, ...]]:
        rows = [row for row in await audit(stage) if row.action == "operator_read"]
        return [(row.actor, str(row.session_id), row.run_id and str(row.run_id), row.subject) for row in rows]

    first = await look(f"/runs/{run.run}")
    of_run = ("olga", run.session, run.run, "ada: run r1")
    assert await looks() == [of_run]
    again = await look(f"/runs/{run.run}", first.headers["Etag"])
    assert (again.status, again.body) == (304, b"")
    assert await looks() == [of_run]
    await stage.execute(update(t.RunRow).values(status="succeeded"))
    changed = await look(f"/runs/{run.run}", first.headers["Etag"])
    assert changed.status == 200
    assert [row["action"] for row in changed.json["audit"]] == ["tool_call.approved", "operator_read"]
    await look(f"/sessions/{run.session}")
    assert await looks() == [of_run, of_run, ("olga", run.session, None, "ada: session t1")]
    own = await front.call("GET", f"{OPERATOR}/runs/{run.run}", as_=headers("ada", "operator"))
    assert own.status == 200
    assert len(await looks()) == 3


async def test_a_session_says_who_writes_it_and_what_is_active(front: Front, stage: Backstage, run: Furnished) -> None:
    await set_session(stage, "t1", "ada", title=SECRET_WORDS)
    detail = await get(front, f"/sessions/{run.session}")
    assert (detail["title"], detail["partition_owner"]) == (SECRET_WORDS, None)
    await stage.execute(update(t.PartitionRow).values(owner="actors-1", partition_epoch=7))
    assert (await get(front, f"/sessions/{run.session}"))["partition_owner"] == "actors-1"
    missing = await front.call("GET", f"{OPERATOR}/sessions/{uuid.uuid4()}", as_=as_operator())
    assert missing.status == 404


async def test_approvals_are_what_a_person_owes_without_the_arguments(front: Front, run: Furnished) -> None:
    found = await pages(front, "/approvals", "approvals")
    assert [(line["interrupt_id"], line["tool_name"], line["run_id"]) for line in found] == [("int_1", "refund", "r1")]
    assert SECRET_WORDS not in json.dumps(found)


async def test_deliveries_to_webhooks_by_what_became_of_them(front: Front, stage: Backstage) -> None:
    leg, at = await stage.add_run("thread-1", "run-1", "ada", "failed"), utcnow()
    row = {"endpoint": uuid.uuid4(), "url": "https://h/in", "type": "run.failed", "body": {"secret": SECRET_WORDS}}
    ids = {"session_id": leg.key.session_id, "run_id": leg.key.run_id}
    ends = [{}, {"delivered_at": at, "attempts": 1}, {"given_up_at": at, "attempts": 50, "last_status": 500}]
    for age, end in enumerate(ends):
        made = {"id": uuid.uuid4(), "event_id": uuid.uuid4(), "created_at": at - timedelta(seconds=age)}
        await stage.execute(insert(t.WebhookDeliveryRow).values(**row, **ids, **made, **end))
    found = await pages(front, "/webhooks", "deliveries")
    assert [(line["status"], line["attempts"], line["last_status"]) for line in found] == [
        ("open", 0, None),
        ("delivered", 1, None),
        ("given_up", 50, 500),
    ]
    assert [line["next_try"] is None for line in found] == [False, True, True]
    assert {(line["run_id"], line["session_id"], line["user_id"]) for line in found} == {("run-1", "thread-1", "ada")}
    assert SECRET_WORDS not in json.dumps(found)
    assert len((await get(front, "/webhooks?status=open,given_up"))["deliveries"]) == 2
    await stage.execute(delete(t.SessionRow))
    assert {line["run_id"] for line in (await get(front, "/webhooks"))["deliveries"]} == {None}


# -- the system -------------------------------------------------------------------------------------------------------


async def test_processes_and_partitions_tell_the_living_from_the_dead(front: Front, stage: Backstage) -> None:
    row = {"kind": "actors", "host": "h", "attempts": []}
    await stage.execute(insert(t.ProcessRow).values(**row, id="actors-h-41-0a"))
    old = utcnow() - timedelta(seconds=60)
    await stage.execute(insert(t.ProcessRow).values(**row, id="actors-h-42-0b", beat_at=old))
    for partition, owner in ((0, "actors-h-41-0a"), (1, "actors-h-42-0b"), (2, "actors-h-43-0c")):
        mine = t.PartitionRow.partition == partition
        await stage.execute(update(t.PartitionRow).where(mine).values(owner=owner, partition_epoch=3))
    processes = {line["pid"]: line["alive"] for line in (await get(front, "/processes"))["processes"]}
    assert (processes[41], processes[42]) == (True, False)
    partitions = (await get(front, "/partitions"))["partitions"]
    assert len(partitions) == 64
    assert [line["owner_alive"] for line in partitions[:4]] == [True, False, False, None]
    assert partitions[0]["partition_epoch"] == 3


async def test_the_status_names_what_is_missing_and_what_to_do(front: Front, stage: Backstage) -> None:
    await stage.add_run(user="ada", run="waits", created_at=utcnow() - timedelta(hours=1))
    status = await get(front, "/status")
    assert [service["reachable"] for service in status["services"]] == [True, True, True]
    assert status["partitions_unserved"] == list(range(64))
    problems = " ".join(status["problems"])
    for hint in ("start `callboard actors`", "start `callboard worker`", "64 of 64 partitions have no consumer"):
        assert hint in problems
    assert "http" not in problems, "this front beats"
    queued = next(count for count in status["backlog"]["runs"] if count["status"] == "queued")
    assert queued["runs"] == 1
    assert queued["oldest"] is not None


@pytest.fixture
async def own_broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


@pytest.fixture
def on_own_broker(own_broker: EmbeddedBroker, postgres_url: str, redis_url: str, redis_prefix: str) -> Settings:
    return make_settings(postgres_url, redis_url, redis_prefix, f"{own_broker.url}?heartbeat=10")


async def test_dead_letters_are_listed_without_and_shown_with_their_content(
    own_broker: EmbeddedBroker, on_own_broker: Settings
) -> None:
    async with serving(on_own_broker) as front, backstage(on_own_broker) as stage:
        async with await aio_pika.connect(own_broker.url) as connection:
            channel = await connection.channel()
            await declare(channel, on_own_broker)
            await declare_ingress(channel, IngressSettings())
            body = json.dumps({"threadId": "t1", "text": SECRET_WORDS}).encode()
            message = aio_pika.Message(body, type="Broken", headers={"authorization": "Bearer hunter2"})
            await channel.default_exchange.publish(message, topology.DEAD_QUEUE)
        listed = await get(front, "/dead-letters")
        [letter] = listed["letters"]
        assert (listed["total"], letter["type"], letter["session"]) == (1, "Broken", "t1")
        assert SECRET_WORDS not in json.dumps(listed)
        shown = await get(front, f"/dead-letters/{letter['id']}")
        assert shown["body"]["text"] == SECRET_WORDS
        assert "hunter2" not in json.dumps(shown)
        assert [row.subject for row in await audit(stage)] == [f": dead letter {letter['id']}"]
        assert (await get(front, "/dead-letters"))["total"] == 1
        assert (await front.call("GET", f"{OPERATOR}/dead-letters/d0", as_=as_operator())).status == 404
        assert "1 dead letters" in " ".join((await get(front, "/status"))["problems"])


async def test_without_its_broker_a_front_says_so(own_broker: EmbeddedBroker, on_own_broker: Settings) -> None:
    async with serving(on_own_broker) as front:
        await own_broker.stop()
        letters = await front.call("GET", f"{OPERATOR}/dead-letters", as_=as_operator())
        assert (letters.status, letters.json["code"]) == (503, "UNAVAILABLE")
        assert "broker" in letters.json["detail"]
        status = await get(front, "/status")
        assert {service["name"]: service["reachable"] for service in status["services"]}["broker"] is False
        assert status["queues"] is None
        assert status["processes"] is not None
        assert any("broker" in problem for problem in status["problems"])


async def test_a_question_that_takes_too_long_is_given_up(stage: Backstage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_LIMIT", text("SET LOCAL statement_timeout = 20"))
    with pytest.raises(Unavailable, match="ask for less"):
        async with database.question(stage.engine) as ask:
            await ask.rows(text("SELECT pg_sleep(60)"))


async def test_a_question_changes_nothing(stage: Backstage) -> None:
    with pytest.raises(Unavailable, match="ReadOnlySQLTransactionError"):
        async with database.question(stage.engine) as ask:
            await ask.rows(text("UPDATE partitions SET owner = 'x' RETURNING 1"))
