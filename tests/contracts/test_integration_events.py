"""What integrations are told of runs: committed with the run, published at least once, on both brokers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import unquote

import aio_pika
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from callboard_actors.writes import OutboxItem
from callboard_runtime.broker import topology
from callboard_runtime.broker.messages import RunEvent
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import ClientId, partition_of, run_uuid, session_uuid
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.settings import EventsSettings
from contracts.test_relay import Inbox, Stage, stage  # noqa: F401 - fixtures
from integration.actor_harness import USER, Actor, Worker, accept, actor, start
from services import TcpProxy
from waiting import until

THREAD, RUN = "orders.2024/*#", "run-1"


def announcement(name: str = "finished", thread: str = THREAD, run: str = RUN) -> OutboxItem:
    session, run_id = session_uuid(USER, thread), run_uuid(USER, run)
    body = {
        "id": str(uuid.uuid4()), "type": f"run.{name}", "at": "2026-01-02T03:04:05+00:00", "session_id": thread,
        "run_id": run, "user_id": USER, "agent_id": "default", "leg": 1,
    }  # fmt: skip
    payload = {"name": name, "body": body}
    return OutboxItem(uuid.uuid4(), "integration", partition_of(session), session, run_id, USER, payload)


async def subscribe(at: Stage, pattern: str) -> Inbox:
    connection = await at._stack.enter_async_context(await aio_pika.connect(at.url))  # pyright: ignore[reportPrivateUsage]
    channel = await connection.channel()
    exchange = await channel.declare_exchange(topology.EVENTS_EXCHANGE, aio_pika.ExchangeType.TOPIC, durable=True)
    queue = await channel.declare_queue(exclusive=True)
    await queue.bind(exchange, pattern)
    return await Inbox.of(queue)


async def row_is_gone(at: Stage, item: OutboxItem) -> bool:
    return await at.scalar("SELECT count(*) FROM outbox WHERE id = :i", i=item.id) == 0


async def test_an_announcement_reaches_its_subscribers_and_its_row_goes(stage: Stage) -> None:  # noqa: F811
    relay = await stage.relay()
    item, other = await stage.outbox(announcement()), await stage.outbox(announcement(thread="another"))
    of_session = await subscribe(stage, f"session.{topology.key_part(THREAD)}.#")
    ends = await subscribe(stage, "session.*.run.*.finished")
    failures = await subscribe(stage, "session.*.run.*.failed")
    relay.committed([item, other])
    (message,) = await of_session.until(1)
    assert len(await ends.until(2)) == 2
    assert not failures.messages
    assert message.routing_key == "session.orders%2E2024%2F%2A%23.run.run-1.finished"
    assert orjson.loads(message.body) == item.payload["body"]
    assert (message.message_id, message.type) == (item.payload["body"]["id"], "run.finished")
    assert message.delivery_mode is aio_pika.DeliveryMode.PERSISTENT
    assert message.timestamp is not None
    assert message.timestamp.isoformat() == item.payload["body"]["at"]
    assert message.headers == {"session_id": THREAD, "run_id": RUN, "user_id": USER}
    await until(lambda: row_is_gone(stage, item))


async def test_without_subscribers_the_row_goes_all_the_same(stage: Stage) -> None:  # noqa: F811
    relay = await stage.relay()
    item = await stage.outbox(announcement())
    relay.committed([item])
    await until(lambda: row_is_gone(stage, item))


async def test_many_are_published_once_each_in_order(stage: Stage) -> None:  # noqa: F811
    relay = await stage.relay(running=False)
    inbox = await subscribe(stage, "#")
    items = [await stage.outbox(announcement(run=f"run-{number}")) for number in range(300)]
    await stage.age(5)
    relay.committed(items)
    await relay._tick()  # pyright: ignore[reportPrivateUsage] - finds them in the table, too
    await relay.stop()
    await inbox.until(300)
    assert await row_is_gone(stage, items[-1])
    assert [message.message_id for message in inbox.messages] == [item.payload["body"]["id"] for item in items]


async def test_announcements_wait_for_the_broker(stage: Stage) -> None:  # noqa: F811
    async with TcpProxy.for_url(stage.url) as proxy:
        relay = await stage.relay(url=proxy.url(stage.url))
        inbox = await subscribe(stage, "#")
        await proxy.refuse()
        item = await stage.outbox(announcement())
        relay.committed([item])
        await relay._announcer.settle()  # pyright: ignore[reportPrivateUsage]
        assert not await row_is_gone(stage, item)
        await stage.age(5)
        await proxy.accept()
        await inbox.until(1)
        await until(lambda: row_is_gone(stage, item))
    assert {message.message_id for message in inbox.messages} == {item.payload["body"]["id"]}


# -- what is announced ------------------------------------------------------------------------------------------------


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as one:
        yield one


def told(it: Actor) -> list[tuple[str, dict[str, Any]]]:
    """What was announced; every body is as integrations were promised."""
    found = [(item.payload["name"], item.payload["body"]) for item in it.outbox if item.kind == "integration"]
    assert [RunEvent.model_validate(body).type for _, body in found] == [f"run.{name}" for name, _ in found]
    return found


async def run_to_its_end(it: Actor, run_id: str = "r1", **end: Any) -> None:
    await it.send(accept(run_id))
    worker = Worker.of(run_id, await it.send(start(run_id)))
    await it.send(worker.command(c.FinishRun, **({"status": RunStatus.SUCCEEDED} | end)))


async def test_a_run_is_announced_when_it_starts_and_ends(it: Actor) -> None:
    await run_to_its_end(it)
    (first, started), (second, finished) = told(it)
    assert (first, second) == ("started", "finished")
    same = {"session_id": "t1", "run_id": "r1", "user_id": USER, "agent_id": "default", "leg": 1}
    assert started == started | same | {"type": "run.started"}
    assert finished == finished | same | {"type": "run.finished", "error": None}
    stored = await it.rows("SELECT payload FROM outbox WHERE kind = 'integration' ORDER BY created_at, payload->>'at'")
    assert [row["payload"]["body"] for row in stored] == [started, finished]


async def test_another_attempt_does_not_announce_the_start_again(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    await it.send(worker.command(c.ReleaseRun))
    await it.send(start("r1"))
    assert [name for name, _ in told(it)] == ["started"]


async def test_a_failure_says_why(it: Actor) -> None:
    await run_to_its_end(it, status=RunStatus.FAILED, error_code="MODEL_FAILED", error_message="no model answered")
    assert told(it)[-1][0] == "failed"
    assert told(it)[-1][1]["error"] == {"code": "MODEL_FAILED", "message": "no model answered"}


async def test_a_pause_names_what_it_waits_for(it: Actor) -> None:
    await it.send(accept("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    call = PendingToolCall(tool_call_id="c1", tool_name="refund", interrupt_id="i1")
    await it.send(worker.command(c.RequestTools, calls=(call,)))
    assert told(it)[-1][0] == "interrupted"
    assert told(it)[-1][1]["pending"] == [{"toolCallId": "c1", "toolName": "refund"}]


async def test_a_cancelled_run_that_never_started_is_announced(it: Actor) -> None:
    session = session_uuid(USER, "t1")
    accepted = accept("r1")
    await it.send(accepted)
    await it.send(c.CancelRun(session_id=session, user_id=USER, run_id="r1", not_after=accepted.not_after))
    assert [(name, body["run_id"], body["agent_id"]) for name, body in told(it)] == [("cancelled", "r1", "default")]


async def test_nothing_is_announced_when_events_are_off(it: Actor) -> None:
    it.settings = it.settings.model_copy(update={"events": EventsSettings(enabled=False)})
    await it.take()
    await run_to_its_end(it)
    assert told(it) == []
    assert await it.rows("SELECT 1 FROM outbox WHERE kind = 'integration'") == []


# -- routing keys -----------------------------------------------------------------------------------------------------

# Dots alone are no id: a path drops them.
CLIENT_IDS = st.from_regex(r"\A[A-Za-z0-9._:~@/+=-]{1,200}\Z").filter(lambda found: bool(found.strip(".")))


@given(CLIENT_IDS, CLIENT_IDS)
def test_an_id_is_one_bounded_word_of_a_key(thread: str, run: str) -> None:
    assert TypeAdapter(ClientId).validate_python(thread) == thread
    key = topology.run_event_key(thread, run, "interrupted")
    words = key.split(".")
    assert len(key) <= 255
    assert (words[0], words[2], words[4], len(words)) == ("session", "run", "interrupted", 5)
    assert not set(key) & set("*#")
    if not words[1].startswith("~"):
        assert unquote(words[1]) == thread


@given(CLIENT_IDS, CLIENT_IDS)
def test_different_ids_have_different_words(one: str, other: str) -> None:
    assert (topology.key_part(one) == topology.key_part(other)) == (one == other)


def test_a_long_id_becomes_its_hash() -> None:
    word = topology.key_part("x" * 101)
    assert word.startswith("~")
    assert len(word) == 41
    assert topology.key_part("x" * 100) == "x" * 100


async def test_an_unknown_failure_does_not_stop_the_others(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:  # noqa: F811
    relay = await stage.relay()
    inbox = await subscribe(stage, "#")
    broken, sound = announcement(), await stage.outbox(announcement())
    del broken.payload["body"]["user_id"]
    relay.committed([broken, sound])
    (message,) = await inbox.until(1)
    assert message.message_id == sound.payload["body"]["id"]
    await asyncio.wait_for(relay._announcer.settle(), 10)  # pyright: ignore[reportPrivateUsage]
    assert "announcements wait" in caplog.text
