"""Messages that nobody should send: requests of integrations, and commands, of any content, header and size.

Each is answered with an error or set aside, none is taken for a bug, and those that come behind it are served.
"""

# ruff: noqa: F811 - fixtures of another module are named as parameters

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import aio_pika
import orjson
import pytest
from hypothesis import strategies as st

from callboard_http.deps import SERVICES
from callboard_runtime.broker import topology
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.commands import MAX_COMMAND_BYTES
from callboard_runtime.domain.ids import partition_of, run_uuid, session_uuid, utcnow
from contracts.ingress_client import PATIENCE, Integration, run_input, token
from contracts.test_ingress import actors, app, front, settings  # noqa: F401 - fixtures
from fuzzing import PLAYED_BESIDE, explore
from integration.api_stage import Worker, approval
from integration.http_harness import USER, Front
from waiting import until

pytestmark = [pytest.mark.timeout(240), PLAYED_BESIDE]

EXAMPLES = 40
SESSION = session_uuid(USER, "t1")
RUN = run_uuid(USER, "r1")

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def mutated(examples: list[dict[str, Any]]) -> st.SearchStrategy[bytes]:
    """An example with some members replaced or left out, perhaps cut off, as the bytes that would be sent."""

    @st.composite
    def one(draw: st.DrawFn) -> bytes:
        content = dict(draw(st.sampled_from(examples)))
        for name in draw(st.lists(st.sampled_from(sorted(content)), max_size=2, unique=True)):
            if draw(st.booleans()):
                content[name] = draw(JSON)
            else:
                del content[name]
        whole = orjson_bytes(content)
        return whole[: draw(st.integers(0, len(whole)))] if draw(st.integers(0, 4)) == 0 else whole

    return one()


def orjson_bytes(content: Any) -> bytes:
    """JSON also of integers beyond 64 bits, and with characters that UTF-8 has no form for."""
    return json.dumps(content, default=str).encode()


# -- requests ---------------------------------------------------------------------------------------------------------

REQUESTS: dict[str, list[dict[str, Any]]] = {
    "run": [run_input("r1", "t1"), run_input("r9", "t9", tools=[{"name": "x"}], state={"a": 1}, forwardedProps={})],
    "resume": [{"run_id": "r1", "answers": [{"interrupt_id": "int-c1", "status": "approved"}], "user": USER}],
    "cancel": [{"run_id": "r9", "reason": "why not"}],
}
HEADER = st.one_of(
    st.text(max_size=30), st.binary(max_size=30).map(bytearray), st.integers(-(2**31), 2**31), st.booleans(), st.none(),
    st.lists(st.integers(0, 9), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(0, 9), max_size=2),
)  # fmt: skip
HEADERS = st.fixed_dictionaries(
    {}, optional={"authorization": st.one_of(st.sampled_from((token(), token("bob"), token(seconds=-60))), HEADER),
                  "agent-id": HEADER, "callboard-dead-reason": HEADER, "traceparent": HEADER},
)  # fmt: skip


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """What `Integration.send` takes."""
    key = draw(st.sampled_from(topology.INGRESS_KEYS))
    bodies = st.one_of(st.binary(max_size=200), JSON.map(orjson_bytes), mutated(REQUESTS[key]))
    given = {"body": draw(bodies), "key": key, "headers": draw(HEADERS)}
    if draw(st.booleans()):
        given["headers"]["authorization"] = token()
    for name in ("content_type", "type", "message_id"):
        if draw(st.integers(0, 3)) == 0:
            given[name] = draw(st.text(max_size=40))
    return given


@pytest.fixture
def bugs(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Everything that was logged; `no_bug` looks at it."""
    caplog.set_level(logging.INFO)
    return caplog.records


def no_bug(records: list[logging.LogRecord]) -> None:
    """Nothing was logged with a traceback: what was wrong was said to be the sender's mistake."""
    for record in records:
        assert record.exc_info is None, (record.name, record.getMessage(), record.exc_info)
        assert "Bearer" not in record.getMessage()
    records.clear()


async def test_any_request_is_answered_and_the_next_one_is_served(
    actors: None,
    front: Front,
    app: Integration,
    bugs: list[logging.LogRecord],
) -> None:
    numbers = iter(range(10_000))

    async def burst(given: list[dict[str, Any]]) -> None:
        replies = [await app.send(**one) for one in given]
        for reply in replies:
            message = await asyncio.wait_for(reply, PATIENCE)
            assert 202 <= int(str(message.headers["status"])) < 500, message.body
            assert orjson.loads(message.body)
        number = next(numbers)
        assert (await app.ask(run_input(f"sane-{number}", f"sane-{number}"))).status == 202
        no_bug(bugs)

    await explore(burst, st.lists(requests(), min_size=1, max_size=6), EXAMPLES)
    assert await app.waiting(topology.INGRESS_QUEUE) == 0


async def test_replies_to_nowhere_are_nobody_s_problem(
    actors: None,
    front: Front,
    app: Integration,
    bugs: list[logging.LogRecord],
) -> None:
    for target in ("gone", "callboard.session.3.v1", topology.DEAD_QUEUE, "x" * 255, "ä", " "):
        await app.send(run_input(f"r-{len(target)}", "t"), reply_to=target)
        await app.send(b"{", reply_to=target, correlation_id="\u2603" * 20)
    assert (await app.ask(run_input("sane", "sane"))).status == 202
    no_bug(bugs)


# -- commands ---------------------------------------------------------------------------------------------------------


def commands_of_all_kinds() -> list[dict[str, Any]]:
    soon = (utcnow() + timedelta(hours=1)).isoformat()
    place: dict[str, Any] = {"session_id": str(SESSION), "run_id": str(RUN)}
    attempt = place | {"epoch": 1, "ordinal": 9}
    batch = {"epoch": 1, "first_seq": 3, "lines": ['{"type":"RAW"}']}
    client = {"session_id": str(SESSION), "user_id": USER, "not_after": soon}
    answers = [{"interrupt_id": "int-c1", "status": "retry"}]
    step = {"key": "k", "kind": "model", "name": "answer", "digest": "d"}
    return [
        client | {"type": "AcceptRun", "thread_id": "t1", "run_id": "r7", "digest": "d", "input": {}},
        client | {"type": "AcceptResume", "leg_run_id": "r8", "digest": "d", "answers": answers},
        client | {"type": "CancelRun", "run_id": "none"},
        client | {"type": "DeleteSession", "session_id": str(session_uuid(USER, "t2"))},
        place | {"type": "StartRun", "leg": 1, "attempt_id": str(uuid.uuid4()), "process": "p"},
        attempt | {"type": "BeginStep", "steps": [step], "events": batch},
        attempt | {"type": "RecordStep", "records": [{"key": "k", "result": 1}], "state": {"a": 1}},
        attempt | {"type": "AppendEvents", "events": batch},
        attempt | {"type": "RequestTools", "calls": [{"tool_call_id": "c9", "tool_name": "x"}]},
        attempt | {"type": "FinishRun", "status": "succeeded", "events": batch},
        attempt | {"type": "ReleaseRun"},
        place | {"type": "ReapAttempt", "attempt_id": str(uuid.uuid4())},
        place | {"type": "EnforceDeadline"},
        {"type": "ExpireToolCalls", "session_id": str(SESSION)},
        {"type": "Unheard", "session_id": str(SESSION)},
    ]


class Commands:
    """Publishes to partition queues what no client of ours would, and gets the replies."""

    def __init__(self, channel: aio_pika.abc.AbstractChannel, exchange: Any, replies: Any) -> None:
        self._channel, self._exchange, self._queue = channel, exchange, replies
        self.replies: asyncio.Queue[bytes] = asyncio.Queue()

    async def take(self, message: Any) -> None:
        self.replies.put_nowait(message.body)

    async def send(self, body: bytes) -> c.Reply:
        """The reply to a command, of the partition of `SESSION`, whatever is in it."""
        message = aio_pika.Message(body, reply_to=self._queue.name, correlation_id=uuid.uuid4().hex, delivery_mode=2)
        await self._exchange.publish(message, str(partition_of(SESSION)), mandatory=True)
        return c.decode_reply(await asyncio.wait_for(self.replies.get(), PATIENCE))


@pytest.fixture
async def mailbox(actors: None, broker_url: str) -> AsyncIterator[Commands]:
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(topology.SESSION_EXCHANGE, ensure=False)
        replies = await channel.declare_queue(exclusive=True)
        commands = Commands(channel, exchange, replies)
        await replies.consume(commands.take, no_ack=True)
        yield commands


def neighbour() -> str:
    """Another thread of the same partition."""
    threads = (f"n{number}" for number in range(100_000))
    return next(name for name in threads if partition_of(session_uuid(USER, name)) == partition_of(SESSION))


async def paused(front: Front) -> CommandClient:
    """A run that waits for an approval, for commands to meet."""
    commands = front.app[SERVICES].commands
    assert (await front.call("POST", "/api/v1/agent/runs", json=run_input())).status == 202
    worker = await Worker.start(commands, "r1")
    await worker.send(c.RequestTools, calls=(approval("c1"),))
    return commands


async def test_any_command_is_answered_and_other_sessions_go_on(
    mailbox: Commands,
    front: Front,
    bugs: list[logging.LogRecord],
) -> None:
    await paused(front)
    beside = neighbour()
    numbers = iter(range(10_000))

    async def burst(bodies: list[bytes]) -> None:
        for body in bodies:
            reply = await mailbox.send(body)
            assert reply.error is None or reply.error.code != "INTERNAL", (body, reply)
        number = next(numbers)
        answer = await front.call("POST", "/api/v1/agent/runs", json=run_input(f"b{number}", beside))
        assert answer.status == 202, answer.json
        no_bug(bugs)

    bodies = st.one_of(mutated(commands_of_all_kinds()), st.binary(max_size=100), JSON.map(orjson_bytes))
    await explore(burst, st.lists(bodies, min_size=1, max_size=5), EXAMPLES)


async def test_a_huge_command_is_set_aside(mailbox: Commands, front: Front, app: Integration) -> None:
    await paused(front)
    huge = (b"x" * (MAX_COMMAND_BYTES + 1), b"[" * MAX_COMMAND_BYTES, b'{"type":"' + b"A" * MAX_COMMAND_BYTES)
    for body in huge:
        reply = await mailbox.send(body)
        assert reply.error is not None
        assert reply.error.code in ("TOO_LARGE", "INVALID_INPUT")
        assert len(reply.error.message) < 1000
    dead = await app.channel.get_queue(topology.DEAD_QUEUE, ensure=False)
    set_aside = {hash(body) for body in huge}

    async def all_found() -> bool:
        message = await dead.get(no_ack=True, fail=False, timeout=PATIENCE)
        set_aside.difference_update({hash(message.body)} if message else ())
        return not set_aside

    await until(all_found, "what was set aside", timeout=PATIENCE)
    assert (await front.call("POST", "/api/v1/agent/runs", json=run_input("after", neighbour()))).status == 202
