"""No secret is written anywhere: logs at their most talkative, rows, messages, events and answers of real processes.

The model provider repeats the key that it was given in its errors, as some do.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import pytest
from aiohttp import web

from callboard_runtime.broker import topology
from callboard_runtime.domain.ids import LANES, PARTITIONS
from canaries import PROVIDER_KEY, Leak, leaks, leaks_of_database, leaks_of_files
from front_client import FrontClient, fresh, run_input, token
from model_server import ModelServer
from shared_stacks import SharedStacks
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(240)

CONFIG = Path(__file__).parents[1] / "faults" / "config"
STATUSES = (400, 401, 403, 404, 429, 500)


class Talkative(ModelServer):
    """Fails with `fail:<status>`, and says with which key it was asked."""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = json.dumps((await request.json())["messages"])
        for status in STATUSES:
            if f"fail:{status}" in text:
                said = f"Incorrect API key provided: {request.headers['Authorization']}"
                return web.json_response({"error": {"message": said, "type": "x", "code": "x"}}, status=status)
        return await super()._answer(request)


@pytest.fixture(scope="module")
def callboard(stacks: SharedStacks) -> Iterator[Callboard]:
    model = Talkative()
    model.start()
    settings = {
        "CALLBOARD_LOG_LEVEL": "DEBUG",
        "CALLBOARD_CONFIG__DIR": str(CONFIG),
        "CALLBOARD_LLM__DEFAULT_MODEL": "held",
        "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI": PROVIDER_KEY,
        "CALLBOARD_LLM__API_BASE__OPENAI": model.url,
        "CALLBOARD_LLM__RETRIES": "0",
    }
    stack = stacks.private("secrets", stacks.real(), settings)
    stack.ensure(http=1, actors=1, worker=1)
    yield stack
    print(stack.logs())  # shown for a failed test only
    stack.kill_all()
    model.stop()


@contextlib.asynccontextmanager
async def overheard(url: str) -> AsyncIterator[list[str]]:
    """All messages between the processes, as text, with their headers."""
    keys: dict[str, list[str]] = {
        topology.SESSION_EXCHANGE: list(map(str, range(PARTITIONS))),
        topology.LANE_EXCHANGE: list(map(str, range(LANES))),
        topology.EVENTS_EXCHANGE: ["#"],
        topology.WORKER_EXCHANGE: [topology.WORKER_QUEUE],
        topology.DEAD_EXCHANGE: [topology.DEAD_QUEUE],
    }
    heard: list[str] = []

    async def note(message: Any) -> None:
        heard.append(f"{message.exchange}: {message.headers} {message.info()} {message.body.decode(errors='replace')}")

    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(exclusive=True)
        for exchange, names in keys.items():
            for name in names:
                await queue.bind(exchange, name)
        await queue.consume(note, no_ack=True)
        yield heard


async def ask(client: FrontClient, text: str) -> str:
    """A run to its end, and all that its reader and its owner are shown of it."""
    run = await client.start(text, thread=fresh("thread"))
    reader = await client.read(run)
    return json.dumps([frame.event for frame in reader.frames]) + json.dumps(await client.run(run))


async def test_no_secret_is_written_anywhere(callboard: Callboard) -> None:
    shown = ""
    async with overheard(callboard.urls.amqp) as heard, callboard.client(fresh("user")) as client:
        shown += await ask(client, "key:secrets say something")
        for status in STATUSES:
            shown += await ask(client, f"fail:{status}")
        ticket = await client.request("POST", f"/api/v1/agent/runs/{await client.start('key:again')}/ticket")
        await client.request("GET", ticket.body["events_url"])
        await client.request("GET", "/healthz?ticket=" + token("somebody"))
        await client.request("POST", "/api/v1/agent/runs", {"threadId": "no good"})
        await over_the_broker(callboard)
        await until(lambda: len(heard) > 50, "messages between the processes")
    assert shown.count("RUN_ERROR") == len(STATUSES)
    assert "MODEL_AUTH" in shown
    assert leaks(shown, "events and answers") == []
    assert [leak for text in heard for leak in leaks(text, text.partition(":")[0])] == []
    assert await leaks_of_database(callboard.urls.database) == []
    assert leaks_of_files(callboard.folder) == []
    password = urlsplit(callboard.urls.amqp).password
    assert password
    logs = "".join(file.read_text(errors="replace") for file in callboard.folder.glob("*.log"))
    assert password not in logs
    assert len(logs.splitlines()) > 100  # they do talk


async def over_the_broker(callboard: Callboard) -> None:
    """Requests that carry a token: a good one, one that cannot be read, one that nobody may send."""
    async with await aio_pika.connect(callboard.urls.amqp) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.INGRESS_EXCHANGE, ensure=False)
        replies = await channel.declare_queue(exclusive=True)
        for body, sent in (
            (json.dumps(run_input("hello", thread=fresh("t"), run=fresh("r"))).encode(), token("program")),
            (b"not json", token("program")),
            (b"{}", token("program") + "x"),
        ):
            given = {"authorization": f"Bearer {sent}"}
            await exchange.publish(aio_pika.Message(body, headers=given, reply_to=replies.name), "run")
            await until(lambda: replies.get(no_ack=True, fail=False), "a reply")


# -- the search itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "planted", [PROVIDER_KEY, token("ada"), f"Bearer {token('bob')}"], ids=["key", "jwt", "bearer"]
)
async def test_the_search_finds_what_is_planted(callboard: Callboard, tmp_path: Path, planted: str) -> None:
    (tmp_path / "deep").mkdir()
    log = tmp_path / "deep" / "worker-1.log"
    log.write_text(f"INFO fine\nERROR it failed: {planted!r}\n")
    [found] = leaks_of_files(tmp_path)
    assert found.where == "worker-1.log"
    assert planted not in repr(found)
    log.unlink()  # the search at the end of the session would find it, too
    assert leaks_of_files(tmp_path) == []


async def test_the_search_finds_a_planted_row(callboard: Callboard) -> None:
    await callboard.query(
        "INSERT INTO audit_log (id, actor, action, subject, details) "
        "VALUES (gen_random_uuid(), 'x', 'planted', $1, '{}')", f"a key: {PROVIDER_KEY}",
    )  # fmt: skip
    try:
        assert await leaks_of_database(callboard.urls.database) == [Leak("the provider's key", "table audit_log")]
    finally:
        await callboard.query("DELETE FROM audit_log WHERE action = 'planted'")
