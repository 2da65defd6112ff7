"""Pauses outlive processes, configurations and brokers, and cost nothing while they wait."""

import asyncio
import json
import os
import re
import uuid
from decimal import Decimal

import psutil
import pytest

from callboard_runtime.domain.ids import run_uuid, session_uuid
from front_client import FrontClient, fresh, run_input
from promises import check_messages, check_usage, ended
from shared_stacks import SharedStacks
from stack import Callboard
from waiting import until

from .refunds import paused, refunds, resume

pytestmark = pytest.mark.timeout(240)

PAUSED = int(os.environ.get("CALLBOARD_TEST_PAUSED", "150"))  # sessions that a crew has wait
WAVE = 50  # that begin to at once
WAITING = 1000  # sessions that wait in the end; the others are copies of one, row by row


async def test_a_pause_survives_a_restart_and_another_configuration(callboard: Callboard, client: FrontClient) -> None:
    run, [interrupt] = await paused(client, "refund order 42")
    before = {line["id"] for line in callboard.ledger()}
    await asyncio.to_thread(callboard.kill_all)
    changed = "INSERT INTO system_agents (agent_type, prompts, enabled) VALUES ('demo', $1, false)"
    await callboard.query(changed, json.dumps({"role": "Somebody else"}))
    try:
        await asyncio.to_thread(callboard.ensure, http=1, actors=1, worker=1)
        refused = await client.post(
            run_input("hi", thread=fresh("t"), run=fresh("run"), forwardedProps={"agentId": "demo"})
        )
        assert (refused.status, refused.code) == (422, "CONFIG_INVALID")
        assert (await resume(client, run, {"interrupt_id": interrupt["id"], "status": "approved"})).status == 202
        assert (await ended(client, run))["status"] == "succeeded"
    finally:
        await callboard.query("DELETE FROM system_agents WHERE agent_type = 'demo'")
    assert await refunds(callboard, client) == {"42": Decimal("19.90")}
    asked = [line for line in callboard.ledger() if line["id"] not in before]
    assert len(asked) == 1, "what was recorded is not asked again"


async def test_a_pause_survives_the_embedded_broker(stacks: SharedStacks) -> None:
    """Whose queues are gone with its process: what waits is in the database alone."""
    embedded = await asyncio.to_thread(stacks.stack, "embedded")
    async with embedded.client(fresh("user")) as ada:
        run, waiting = await paused(ada, "refund orders 1 and 2")
        first, second = (entry["id"] for entry in waiting)
        partly = await resume(ada, run, {"interrupt_id": first, "status": "approved"})
        assert (partly.status, partly.body["status"]) == (202, "awaiting_input")
        await asyncio.to_thread(embedded.kill_all)
        stacks.embedded_child("amqp").kill()
        await asyncio.to_thread(embedded.ensure, http=1, actors=1, worker=1)
        given = [{"interrupt_id": second, "status": said} for said in ("approved", "rejected") for _ in range(10)]
        answers = await asyncio.gather(*(resume(ada, run, answer) for answer in given))
        by_kind = [{answer.status for answer in answers[kind * 10 : kind * 10 + 10]} for kind in (0, 1)]
        assert sorted(by_kind, key=max) == [{202}, {409}]
        shown = await ended(ada, run)
        assert (shown["status"], len(shown["legs"])) == ("succeeded", 2)
        paid = {"1": Decimal("5.00")} | ({"2": Decimal("7.50")} if by_kind[0] == {202} else {})
        assert await refunds(embedded, ada) == paid
        await check_messages(ada, shown["session_id"])
        await check_usage(embedded, ada, shown["session_id"])


COPIED = {
    "sessions": "id = $1",
    "messages": "session_id = $1",
    "runs": "session_id = $1",
    "run_legs": "run_id IN (SELECT id FROM runs WHERE session_id = $1)",
    "run_attempts": "session_id = $1",
    "run_steps": "run_id IN (SELECT id FROM runs WHERE session_id = $1)",
    "llm_calls": "session_id = $1",
    "event_segments": "session_id = $1",
}


async def copies(callboard: Callboard, client: FrontClient, run: str, count: int) -> list[str]:
    """Sessions like the one of `run`, whose runs wait as it does; the ids of these runs."""
    thread, made = (await client.run(run))["session_id"], [fresh("run") for _ in range(count)]
    for table, which in COPIED.items():
        [found] = await callboard.query(
            f"SELECT json_agg(t)::text AS rows FROM {table} t WHERE {which}", session_uuid(client.user, thread)
        )
        rows = ",".join(_renamed(found["rows"], client.user, thread, run, copy)[1:-1] for copy in made)
        await callboard.query(
            f"INSERT INTO {table} SELECT * FROM json_populate_recordset(null::{table}, $1)", f"[{rows}]"
        )
    return made


def _renamed(rows: str, user: str, thread: str, run: str, copy: str) -> str:
    """The rows under ids of another session."""
    other = f"thread-of-{copy}"
    rows = rows.replace(str(session_uuid(user, thread)), str(session_uuid(user, other)))
    rows = rows.replace(str(run_uuid(user, run)), str(run_uuid(user, copy)))
    rows = re.sub(r'("attempt_id": ?)"[0-9a-f-]{36}"', lambda found: f'{found[1]}"{uuid.uuid4()}"', rows)
    return rows.replace(thread, other).replace(run, copy)


@pytest.mark.timeout(180 + PAUSED)
async def test_a_thousand_pauses_cost_the_worker_nothing(callboard: Callboard, client: FrontClient) -> None:
    [worker] = callboard.of("worker")
    process = psutil.Process(worker.pid)

    async def waiting() -> int:
        statement = "SELECT count(*) AS n FROM runs WHERE user_id = $1 AND status = 'awaiting_input'"
        return (await callboard.query(statement, client.user))[0]["n"]

    async def wave(number: int) -> None:
        await asyncio.gather(*(client.start(f"refund order {n}", agent="demo") for n in range(WAVE)))

        async def all_wait() -> bool:
            return await waiting() == number * WAVE

        await until(all_wait, f"{WAVE} pauses", timeout=120)

    def memory() -> int:
        return process.memory_info().rss // 2**20

    await wave(1)
    before = memory()
    for number in range(2, PAUSED // WAVE + 1):
        await wave(number)
    run, [interrupt] = await paused(client, "refund order 42")
    made = await copies(callboard, client, run, WAITING - PAUSED - 1) if PAUSED < WAITING else [run]
    waited = await waiting()
    assert waited >= WAITING
    idle = "SELECT 1 FROM processes WHERE kind = 'worker' AND attempts = '[]' AND id LIKE $1"
    await until(lambda: callboard.query(idle, f"%-{worker.pid}-%"), "an idle worker")
    [open_] = await callboard.query("SELECT count(*) AS n FROM run_attempts WHERE ended_at IS NULL")
    assert open_["n"] == 0
    assert await callboard.query("SELECT 1 FROM outbox WHERE kind = 'wakeup'") == []
    assert memory() - before < 64, (before, memory())
    # A copy is as good as a session that a crew had wait, among all the others.
    assert (await resume(client, made[-1], {"interrupt_id": interrupt["id"], "status": "approved"})).status == 202
    assert (await ended(client, made[-1]))["status"] == "succeeded"
    assert await refunds(callboard, client) == {"42": Decimal("19.90")}
    assert await waiting() == waited - 1
