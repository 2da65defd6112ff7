"""Webhooks from a real database to a real receiver: signed, again after a failure or a death, and nowhere else."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import ssl
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from standardwebhooks import Webhook

from callboard_actors import webhooks
from callboard_actors.webhooks import WebhookDeliverer
from callboard_actors.wiring import actor_process
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.broker.messages import RunEvent
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import EventsSettings, WebhookSettings

from .actor_harness import USER, Actor, Worker, accept, actor, start
from .http_harness import make_settings
from .real_actors import with_actors

SESSION = session_uuid(USER, "t1")
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()


class Receiver:
    """Answers what it is told to, 204 at last; keeps what it got, verified."""

    def __init__(self) -> None:
        self.answers: list[web.Response | Callable[[web.Request], Awaitable[web.Response]]] = []
        self.got: list[tuple[str, dict[str, Any]]] = []  # path, body
        self.changed = asyncio.Condition()
        self.server: TestServer

    def url(self, path: str = "/hook") -> str:
        return str(self.server.make_url(path))

    async def take(self, request: web.Request) -> web.StreamResponse:
        body = Webhook(SECRET).verify(await request.read(), dict(request.headers))
        assert request.headers["webhook-id"] == body["id"]
        async with self.changed:
            self.got.append((request.path_qs, body))
            self.changed.notify_all()
        answer = self.answers.pop(0) if self.answers else web.Response(status=204)
        return answer if isinstance(answer, web.Response) else await answer(request)

    async def until(self, count: int) -> list[dict[str, Any]]:
        async with asyncio.timeout(20), self.changed:
            await self.changed.wait_for(lambda: len(self.got) >= count)
        return [body for _, body in self.got]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    one = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", one.take)
    one.server = TestServer(app)
    await one.server.start_server()
    yield one
    await one.server.close()


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as one:
        yield one


async def configure(it: Actor, *urls: str, **values: object) -> None:
    given = {"urls": ",".join(urls), "secret": SECRET, "allow_private": True, "first_retry": 0.02, "timeout": 5}
    webhooks = WebhookSettings.model_validate(given | values)
    it.settings = it.settings.model_copy(update={"webhooks": webhooks})
    await it.take()


@asynccontextmanager
async def delivering(it: Actor) -> AsyncIterator[None]:
    running = asyncio.create_task(WebhookDeliverer(it.engine, it.settings).run())
    try:
        yield
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def log(it: Actor) -> list[dict[str, Any]]:
    return await it.rows("SELECT * FROM webhook_deliveries ORDER BY created_at, url")


async def until_log(it: Actor, holds: Callable[[list[dict[str, Any]]], bool]) -> list[dict[str, Any]]:
    async with asyncio.timeout(20):
        while not holds(rows := await log(it)):  # noqa: ASYNC110 - the database tells nobody
            await asyncio.sleep(0.05)
    return rows


def all_delivered(rows: list[dict[str, Any]]) -> bool:
    return bool(rows) and all(row["delivered_at"] for row in rows)


async def run_to_its_end(it: Actor, run_id: str = "r1", **end: Any) -> None:
    await it.send(accept(run_id))
    worker = Worker.of(run_id, await it.send(start(run_id)))
    await it.send(worker.command(c.FinishRun, **({"status": RunStatus.SUCCEEDED} | end)))


async def test_ends_and_pauses_are_told_signed_and_logged(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url("/hook?token=hunter2"))
    await run_to_its_end(it)
    await it.send(accept("r2"))
    worker = Worker.of("r2", await it.send(start("r2")))
    call = PendingToolCall(tool_call_id="c1", tool_name="refund", interrupt_id="i1")
    await it.send(worker.command(c.RequestTools, calls=(call,)))
    await it.send(c.CancelRun(session_id=SESSION, user_id=USER, run_id="r2", not_after=accept("x").not_after))
    async with delivering(it):
        bodies = await receiver.until(3)
        rows = await until_log(it, all_delivered)
    assert {body["type"] for body in bodies} == {"run.finished", "run.interrupted", "run.cancelled"}
    assert all(RunEvent.model_validate(body).session_id == "t1" for body in bodies)
    assert {path for path, _ in receiver.got} == {"/hook?token=hunter2"}
    assert {str(row["event_id"]) for row in rows} == {body["id"] for body in bodies}
    assert {(row["attempts"], row["last_status"], row["last_error"], row["body"]) for row in rows} == {
        (1, 204, None, None)
    }
    assert {row["url"] for row in rows} == {receiver.url("/hook")}


async def test_the_rows_are_those_of_the_announcements_and_need_no_broker_events(it: Actor, receiver: Receiver) -> None:
    it.settings = it.settings.model_copy(update={"events": EventsSettings(enabled=False)})
    await configure(it, receiver.url(), receiver.url("/other"), events="started,finished")
    await run_to_its_end(it)
    assert not [item for item in it.outbox if item.kind == "integration"]
    assert sorted((row["type"], row["url"]) for row in await log(it)) == [
        (kind, receiver.url(path)) for kind in ("run.finished", "run.started") for path in ("/hook", "/other")
    ]


async def test_failures_are_tried_again_until_the_receiver_takes_it_once(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url())
    receiver.answers = [web.Response(status=500), web.Response(status=503, headers={"retry-after": "1"})]
    await run_to_its_end(it, status=RunStatus.FAILED, error_code="MODEL_FAILED", error_message="no model answered")
    async with delivering(it):
        [row] = await until_log(it, all_delivered)
    assert (row["attempts"], row["last_status"], row["last_error"]) == (3, 204, None)
    assert len({body["id"] for _, body in receiver.got}) == 1
    assert [body["error"]["code"] for _, body in receiver.got] == ["MODEL_FAILED"] * 3


async def test_two_processes_deliver_everything_once(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url())
    for number in range(20):
        await run_to_its_end(it, f"r{number}")
    async with delivering(it), delivering(it):
        await until_log(it, all_delivered)
    assert len(receiver.got) == len({body["id"] for _, body in receiver.got}) == 20


DELIVERER = """
import asyncio
from callboard_actors.webhooks import WebhookDeliverer
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import Settings
settings = Settings()
asyncio.run(WebhookDeliverer(create_engine(settings), settings).run())
"""


async def test_a_process_killed_before_its_note_leaves_the_delivery_to_another(
    it: Actor, receiver: Receiver, postgres_url: str
) -> None:
    await configure(it, receiver.url())
    await run_to_its_end(it)

    async def kill(request: web.Request) -> web.Response:
        process.send_signal(signal.SIGKILL)
        return web.Response(status=204)

    receiver.answers = [kill]
    own = {"DATABASE_URL": postgres_url, "WEBHOOKS__URLS": receiver.url(), "WEBHOOKS__SECRET": SECRET}
    own |= {"WEBHOOKS__ALLOW_PRIVATE": "true", "ENV_FILE": ""}
    environment = os.environ | {f"CALLBOARD_{name}": value for name, value in own.items()}
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", DELIVERER, env=environment)
    async with asyncio.timeout(60):
        assert await process.wait() == -signal.SIGKILL
    [row] = await log(it)
    assert (row["attempts"], row["delivered_at"]) == (1, None)
    assert row["due_at"] > utcnow(), "the lease of the dead"
    async with it.engine.begin() as db:
        await db.exec_driver_sql("UPDATE webhook_deliveries SET due_at = now()")  # as it is half a minute later
    async with delivering(it):
        await until_log(it, all_delivered)
    first, second = receiver.got
    assert first == second


async def test_private_addresses_get_no_connection(it: Actor, receiver: Receiver) -> None:
    taken = 0

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        writer.close()

    trap = await asyncio.start_server(connected, "127.0.0.1", 0)
    port = trap.sockets[0].getsockname()[1]
    async with trap:
        await configure(it, "https://example.com", allow_private=False)
        # As a name that led elsewhere when the settings were read, and a number that they did not see.
        urls = (f"https://localhost:{port}/", f"https://127.0.0.1:{port}/")
        webhooks = it.settings.webhooks.model_copy(update={"urls": urls})
        it.settings = it.settings.model_copy(update={"webhooks": webhooks})
        await it.take()
        await run_to_its_end(it)
        async with delivering(it):
            rows = await until_log(it, lambda rows: all(row["last_error"] for row in rows))
    assert taken == 0
    assert ["is a private address" in row["last_error"] for row in rows] == [True, True]


async def test_redirects_are_not_followed(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url(), first_retry=3600)
    receiver.answers = [web.Response(status=307, headers={"location": receiver.url("/elsewhere")})]
    await run_to_its_end(it)
    async with delivering(it):
        [row] = await until_log(it, lambda rows: bool(rows[0]["last_status"]))
    assert row["last_status"] == 307
    assert "redirects are not followed" in row["last_error"]
    assert [path for path, _ in receiver.got] == ["/hook"]


async def test_a_slow_receiver_holds_up_no_other(it: Actor, receiver: Receiver) -> None:
    release = asyncio.Event()
    slow = 0

    async def wait(request: web.Request) -> web.Response:
        nonlocal slow
        slow += 1
        await release.wait()
        return web.Response(status=204)

    app = web.Application()
    app.router.add_post("/", wait)
    async with TestServer(app) as server:
        await configure(it, str(server.make_url("/")), receiver.url(), concurrency=2, timeout=30)
        for number in range(5):
            await run_to_its_end(it, f"r{number}")
        async with delivering(it):
            await receiver.until(5)
            await until_log(it, lambda rows: sum(row["delivered_at"] is not None for row in rows) == 5)
            assert slow == 2, "no more than two at once"
            release.set()
            await until_log(it, all_delivered)
    assert slow == 5


async def test_what_never_succeeds_is_given_up_and_can_be_sent_again(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url(), max_attempts=2)
    receiver.answers = [web.Response(status=500) for _ in range(2)]
    await run_to_its_end(it)
    async with delivering(it):
        [row] = await until_log(it, lambda rows: bool(rows[0]["given_up_at"]))
        assert (row["attempts"], row["last_error"]) == (2, "the receiver answered 500")
        assert row["body"]["id"] == str(row["event_id"])
        async with it.engine.begin() as db:
            await db.exec_driver_sql(_again())
        await until_log(it, all_delivered)


def _again() -> str:
    from unit import docs_pages as docs

    [statement] = [sql for sql in docs.blocks(docs.ROOT / "docs" / "webhooks.md", "sql") if sql.startswith("UPDATE")]
    return statement


async def test_a_receiver_that_wants_no_more_is_left_alone(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url())
    receiver.answers = [web.Response(status=410)]
    await run_to_its_end(it)
    async with delivering(it):
        [row] = await until_log(it, lambda rows: bool(rows[0]["given_up_at"]))
    assert (row["attempts"], row["last_status"]) == (1, 410)


async def test_a_receiver_without_a_good_certificate_gets_nothing(it: Actor, receiver: Receiver) -> None:
    """TLS is checked also where private addresses are allowed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        await configure(it, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", first_retry=3600)
        await run_to_its_end(it)
        async with delivering(it):
            [row] = await until_log(it, lambda rows: bool(rows[0]["last_error"]))
    assert row["last_status"] is None
    assert row["delivered_at"] is None


async def _plant(it: Actor, **about: str) -> uuid.UUID:
    """A row as if it had been written long ago."""
    row = uuid.uuid4()
    columns = {"id": f"'{row}'", "event_id": f"'{row}'", "endpoint": f"'{row}'", "url": "'https://gone.example'"}
    columns |= {"type": "'run.finished'", "session_id": f"'{row}'", "run_id": f"'{row}'"} | about
    async with it.engine.begin() as db:
        sql = f"INSERT INTO webhook_deliveries ({', '.join(columns)}) VALUES ({', '.join(columns.values())})"
        await db.exec_driver_sql(sql)
    return row


async def test_the_log_forgets_and_forsaken_deliveries_end(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url())
    long_ago, recently = "now() - interval '31 days'", "now() - interval '2 days'"
    old = await _plant(it, created_at=long_ago, delivered_at=long_ago)
    late = await _plant(it, created_at=long_ago, given_up_at=recently)
    forsaken = await _plant(it, created_at=recently)
    young = await _plant(it)
    async with delivering(it):
        rows = {row["id"]: row for row in await until_log(it, lambda rows: len(rows) == 3)}
    assert rows.keys() == {late, forsaken, young}
    assert rows[forsaken]["last_error"] == "no actor process has this URL in its settings"
    assert rows[young]["given_up_at"] is None
    assert old not in rows


async def test_the_log_forgets_more_than_a_batch(it: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "PRUNED_AT_ONCE", 2)
    monkeypatch.setattr(webhooks, "TICK", 0.01)
    long_ago = "now() - interval '31 days'"
    for _ in range(5):
        await _plant(it, created_at=long_ago, delivered_at=long_ago)
    async with delivering(it):
        await until_log(it, lambda rows: not rows)


async def test_a_deleted_sessions_ended_deliveries_go(it: Actor, receiver: Receiver) -> None:
    await configure(it, receiver.url())
    await run_to_its_end(it)
    async with delivering(it):
        await until_log(it, all_delivered)
    await it.send(c.DeleteSession(session_id=SESSION, user_id=USER, not_after=accept("x").not_after))
    assert await log(it) == []


async def test_an_actor_process_delivers_what_it_commits_and_ends_what_is_under_way(
    postgres_url: str, redis_url: str, redis_prefix: str, embedded_amqp_url: str, receiver: Receiver
) -> None:
    webhooks = {"urls": receiver.url(), "secret": SECRET, "allow_private": True}
    made = make_settings(postgres_url, redis_url, redis_prefix, embedded_amqp_url)
    settings = with_actors(made.model_copy(update={"webhooks": WebhookSettings.model_validate(webhooks)}))
    answering = asyncio.Event()

    async def late(request: web.Request) -> web.Response:
        await answering.wait()
        return web.Response(status=204)

    receiver.answers = [late]
    async with actor_process(settings) as process:
        duties = [asyncio.create_task(duty()) for duty in process.duties()]
        client = await CommandClient.connect(settings.required_amqp_url(), "front")
        accepted = accept("r1")
        await client.send(accepted, timeout=20)
        cancel = c.CancelRun(session_id=SESSION, user_id=USER, run_id="r1", not_after=accepted.not_after)
        await client.send(cancel, timeout=20)
        await client.close()
        [body] = await receiver.until(1)
        for duty in duties:
            duty.cancel()
        answering.set()
        await asyncio.gather(*duties, return_exceptions=True)
    assert (body["type"], body["run_id"]) == ("run.cancelled", "r1")
    engine = create_engine(postgres_url)
    async with engine.connect() as db:
        found = await db.exec_driver_sql("SELECT attempts, delivered_at IS NOT NULL FROM webhook_deliveries")
        assert [tuple(row) for row in found] == [(1, True)]
    await engine.dispose()
