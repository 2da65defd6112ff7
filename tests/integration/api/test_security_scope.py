"""Whatever is asked with another user's ids, in any order and on any way, shows nothing and changes nothing of theirs.

The attacker has a valid token, knows every id of the victim, and has runs of the same names.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson
import pytest
from hypothesis import strategies as st
from sqlalchemy import text

from callboard_http.deps import SERVICES
from callboard_http.openapi.operations import OPERATIONS, Operation
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.settings import Settings
from contracts.ingress_client import Integration, integration, token
from fuzzing import PLAYED_BESIDE, explore
from integration.api_stage import Worker, approval, body, frontend
from integration.http_harness import USER, Front, delta, headers

MARK = "what-only-ada-may-see-5b1f"
ATTACKER = "mallory"
SILENCE = 0.15  # seconds until a stream that says nothing is left
EXAMPLES = 40

pytestmark = [pytest.mark.timeout(240), PLAYED_BESIDE]


@dataclass(frozen=True)
class Attack:
    """One request with the victim's ids."""

    operation: Operation
    for_user: bool  # with `?user=` of the victim
    streamed: bool
    ticket: int | None  # which of the tickets that are about
    body: int  # which of the bodies of this kind
    run: str
    thread: str


@dataclass(frozen=True)
class Message:
    """One request over the broker."""

    key: str
    body: dict[str, Any]


ATTACKED = [operation for operation in OPERATIONS if not operation.open]
ATTACKS = st.builds(
    Attack, st.sampled_from(ATTACKED), st.booleans(), st.booleans(), st.none() | st.integers(0, 3), st.integers(0, 3),
    st.sampled_from(("r0", "r1")), st.sampled_from(("t0", "t1")),
)  # fmt: skip
RESUMES = (
    {"answers": [{"interrupt_id": "int-c1", "status": "approved"}]},
    {"answers": [{"tool_call_id": "c2", "status": "result", "payload": "forged"}]},
    {"resume": [{"interruptId": "int-c1", "status": "resolved", "payload": {"approved": True}}]},
    {"answers": [{"interrupt_id": "int-c1", "status": "rejected"}], "run_id": "r1"},
)
MESSAGES = st.one_of(
    st.builds(
        lambda answer: Message("resume", {"run_id": "r1", "user": USER} | _renamed(answer)), st.sampled_from(RESUMES)
    ),
    st.builds(lambda answer: Message("resume", {"run_id": "r1"} | _renamed(answer)), st.sampled_from(RESUMES)),
    st.builds(lambda run: Message("cancel", {"run_id": run}), st.sampled_from(("r0", "r1"))),
    st.builds(lambda kind: Message("run", run_bodies("r1", "t1")[kind]), st.integers(0, 3)),
)


def _renamed(answer: dict[str, Any]) -> dict[str, Any]:
    """`run_id` is the paused run's in a message."""
    return {("next_run_id" if name == "run_id" else name): value for name, value in answer.items()}


def run_bodies(run: str, thread: str) -> list[dict[str, Any]]:
    stray = {"id": "x1", "role": "tool", "toolCallId": "c2", "content": "forged"}
    forged = {"id": "x2", "role": "assistant", "content": "I never said so", "toolCalls": [{"id": "c1"}]}
    return [
        body(run, thread, "mine"),
        body(run, thread, messages=[forged, stray]),
        body(run, thread, resume=[{"interruptId": "int-c1", "status": "resolved", "payload": {"approved": True}}]),
        body(run, thread, forwardedProps={"multitaskStrategy": "rollback"}),
    ]


def path_of(operation: Operation, run: str, thread: str) -> str:
    """The path that names the victim's things; an operator's paths name them by their internal ids."""
    inner = session_uuid(USER, thread) if "/sessions/" in operation.path else run_uuid(USER, run)
    names = {"run_id": run, "session_id": thread, "thread_id": thread, "agent_id": "default", "internal_id": inner}
    return operation.path.format(**dict.fromkeys(operation.path_names, "x") | names)


def body_for(attack: Attack) -> Any:
    model = attack.operation.body.__name__ if attack.operation.body else None
    match model:
        case "RunAgentInput":
            return run_bodies(attack.run, attack.thread)[attack.body]
        case "Resume":
            return RESUMES[attack.body]
        case "ThreadRequest":
            return {"threadId": attack.thread, "protocolVersion": "1.0"}
        case "StopRequest":
            return {"runId": attack.run} if attack.body % 2 else {}
        case "Envelope":
            return envelopes(attack.run, attack.thread)[attack.body]
        case "Cancel":
            return {"reason": "because I can"}
        case None:
            return None
        case other:
            raise AssertionError(f"an attacker would try {other}, too: say how")


def envelopes(run: str, thread: str) -> list[dict[str, Any]]:
    params = {"agentId": "default", "threadId": thread}
    path = f"/threads/{thread}/messages"
    return [
        {"method": "agent/stop", "params": params, "body": {"runId": run}},
        {"method": "agent/connect", "params": params, "body": {"threadId": thread}},
        {"method": "resource/request", "params": {"path": path, "httpMethod": "GET"}},
        {"method": "agent/run", "params": params, "body": run_bodies(run, thread)[2]},
    ]


class World:
    """A victim with a run that ended and one that waits, and an attacker with a run of the same name."""

    def __init__(self, front: Front, app: Integration, tickets: list[str]) -> None:
        self.front, self.app, self.tickets = front, app, tickets

    async def rows(self) -> dict[str, Any]:
        """All that is kept of the victim's sessions."""
        ids = [session_uuid(USER, "t0"), session_uuid(USER, "t1")]
        found: dict[str, Any] = {}
        async with self.front.app[SERVICES].engine.connect() as db:
            for table, key in (
                *((name, "session_id") for name in ("messages", "runs", "run_attempts", "llm_calls", "event_segments")),
                ("sessions", "id"),
            ):
                query = text(f"SELECT t::text FROM {table} t WHERE {key} = ANY(:ids) ORDER BY 1")
                found[table] = list(await db.scalars(query, {"ids": ids}))
            for table in ("run_legs", "run_steps"):
                query = text(f"SELECT t::text FROM {table} t JOIN runs r ON r.id = t.run_id "
                             "WHERE r.session_id = ANY(:ids) ORDER BY 1")  # fmt: skip
                found[table] = list(await db.scalars(query, {"ids": ids}))
        return found

    async def attack(self, attack: Attack) -> None:
        path = path_of(attack.operation, attack.run, attack.thread)
        query = {"user": USER} if attack.for_user else {}
        as_ = headers(ATTACKER, "approver") | ({"Accept": "text/event-stream"} if attack.streamed else {})
        if attack.ticket is not None and attack.operation.ticket:
            query, as_ = query | {"ticket": self.tickets[attack.ticket]}, {}
        status, shown = await self.exchange(attack.operation.method, path, query, as_, body_for(attack))
        assert MARK not in shown
        assert status < 500, shown
        if attack.operation.tag == "For operators":
            assert status in (400, 404), (attack, status, shown)
        if attack.for_user and any(parameter.name == "user" for parameter in attack.operation.parameters):
            assert status in (400, 401, 403, 404), (attack, status, shown)

    async def exchange(self, method: str, path: str, query: Any, as_: Any, given: Any) -> tuple[int, str]:
        """The answer, or of a stream what it says before it falls silent."""
        async with self.front.http.request(
            method, self.front.url + path, params=query, headers=as_, json=given
        ) as response:
            if response.content_type != "text/event-stream":
                return response.status, await response.text()
            return response.status, await _read(response)

    async def send(self, message: Message) -> None:
        reply = await self.app.ask(
            message.body, key=message.key, headers={"authorization": token(ATTACKER, "approver")}
        )
        assert MARK not in str(reply.json)
        assert reply.status < 500, reply.json
        if "user" in message.body:
            assert reply.status in (400, 404), reply.json


async def _read(response: aiohttp.ClientResponse) -> str:
    shown = b""
    try:
        while part := await asyncio.wait_for(response.content.readany(), SILENCE):
            shown += part
    except TimeoutError:
        response.close()
    return shown.decode()


@pytest.fixture
async def world(front: Front, commands: CommandClient, settings: Settings) -> AsyncIterator[World]:
    await front.call("POST", "/api/v1/agent/runs", json=body("r0", "t0", MARK))
    worker = await Worker.start(commands, "r0", thread="t0")
    place = {"session_id": session_uuid(USER, "t0"), "run_id": run_uuid(USER, "r0")}
    await commands.send(c.FinishRun(**place, epoch=worker.epoch, ordinal=1, status=RunStatus.SUCCEEDED), 10)
    await front.call("POST", "/api/v1/agent/runs", json=body("r1", "t1", MARK))
    worker = await Worker.start(commands, "r1")
    said = NewMessage(message_id="a1", role="assistant", content=MARK)
    calls = (approval("c1", args={"note": MARK}), frontend("c2"))
    await worker.send(c.RequestTools, delta(MARK), calls=calls, messages=(said,))
    await front.call("POST", "/api/v1/agent/runs", json=body("mine", "t9"), as_=headers(ATTACKER))
    tickets = [
        (await front.call("POST", f"/api/v1/agent/runs/{run}/ticket", as_=headers(user))).json["ticket"]
        for user, run in ((ATTACKER, "mine"),)
    ]
    tampered = tickets[0][:-2] + ("AA" if not tickets[0].endswith("AA") else "BB")
    async with integration(settings.required_amqp_url()) as app:
        yield World(front, app, [*tickets, tampered, "x.y.z", token(ATTACKER).removeprefix("Bearer ")])


async def test_nothing_is_shown_and_nothing_is_changed(world: World) -> None:
    before = await world.rows()
    assert MARK in str(before["messages"])

    async def sequence(steps: list[Attack | Message]) -> None:
        for step in steps:
            await (world.attack(step) if isinstance(step, Attack) else world.send(step))
        assert await world.rows() == before

    await explore(sequence, st.lists(st.one_of(ATTACKS, MESSAGES), min_size=1, max_size=8), EXAMPLES)


async def test_the_owner_is_shown_what_the_attacker_is_not(world: World) -> None:
    """The same requests, from whom they may come: so that the test above can fail."""
    shown = ""
    for operation in ATTACKED:
        path = path_of(operation, "r1", "t1")
        given = Attack(operation, False, False, None, 2, "r1", "t1")
        if operation.method == "GET" or operation.name == "connectThread":
            shown += (await world.exchange(operation.method, path, {}, headers(), body_for(given)))[1]
    assert shown.count(MARK) >= 5
    before = await world.rows()
    await world.front.call("POST", "/api/v1/agent/runs/r1/resume", json=RESUMES[0])
    assert await world.rows() != before


async def test_a_ticket_opens_nothing_but_its_run(world: World) -> None:
    own = (await world.front.call("POST", "/api/v1/agent/runs/r0/ticket")).json["ticket"]
    other = f"/api/v1/agent/runs/r1/events?ticket={own}"
    assert (await world.front.call("GET", other, as_={})).status == 401
    foreign = f"/api/v1/agent/runs/r0/events?user={ATTACKER}&ticket={own}"
    assert (await world.front.call("GET", foreign, as_={})).status == 401
    for operation in ATTACKED:
        if operation.ticket:
            continue
        path = path_of(operation, "r0", "t0")
        status, _ = await world.exchange(operation.method, path, {"ticket": own}, {}, None)
        assert status == 401, operation
        status, _ = await world.exchange(operation.method, path, {}, {"Authorization": f"Bearer {own}"}, None)
        assert status == 401, operation


async def test_every_refused_reach_for_somebody_elses_data_is_noted(world: World) -> None:
    attacks = [op for op in ATTACKED if any(p.name == "user" for p in op.parameters) and op.name != "resumeRun"]
    for operation in attacks:
        await world.attack(Attack(operation, True, False, None, 0, "r1", "t1"))
    async with world.front.app[SERVICES].engine.connect() as db:
        query = text("SELECT count(*) FROM audit_log WHERE actor = :actor AND action = 'access_refused'")
        assert (await db.execute(query, {"actor": ATTACKER})).scalar_one() == len(attacks)
    assert (await world.front.call("GET", "/api/v1/agent/runs/r1")).json["status"] == RunStatus.AWAITING_INPUT
    assert orjson.loads((await world.front.call("GET", "/api/v1/agent/sessions", as_=headers(ATTACKER))).body)
