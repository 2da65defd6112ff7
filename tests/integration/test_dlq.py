"""`callboard dlq` on both brokers: looking loses nothing, a replay arrives where the message came from."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import aio_pika
import orjson
import pytest
from aio_pika.abc import AbstractChannel

from callboard_runtime.broker import topology
from callboard_runtime.broker.topology_setup import declare, declare_ingress
from callboard_runtime.embedded.amqp import EmbeddedBroker
from callboard_runtime.settings import ActorSettings, IngressSettings, Settings
from command_line import AsyncRun, async_runner
from waiting import until

SESSION = "5c3f7dd6-8cc9-5b84-a6a5-1f2b0b9d7f11"
PARTITION = topology.partition_queue(7)


@pytest.fixture(params=["embedded", "rabbitmq"])
async def broker_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    if request.param == "rabbitmq":
        yield request.getfixturevalue("rabbitmq_vhost_url").split("?")[0]
        return
    async with EmbeddedBroker() as broker:
        yield broker.url


@pytest.fixture
async def channel(broker_url: str) -> AsyncIterator[AbstractChannel]:
    async with await aio_pika.connect(broker_url) as connection:
        channel = await connection.channel()
        await declare(channel, Settings(actors=ActorSettings(delivery_limit=1)))
        await declare_ingress(channel, IngressSettings())
        yield channel


@pytest.fixture
def run(broker_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> AsyncRun:
    """Run `callboard dlq …` in a thread, beside the embedded broker; returns exit code, output and errors."""
    monkeypatch.setenv("CALLBOARD_AMQP_URL", broker_url)
    return partial(async_runner(monkeypatch, capsys), "dlq")


async def listed(run: AsyncRun, *args: str) -> list[dict[str, Any]]:
    code, out, err = await run("list", "--json", *args)
    assert code == 0, err
    return json.loads(out)


async def die(channel: AbstractChannel, number: int = 1, queue: str = PARTITION) -> None:
    """A command that its consumer rejects."""
    body = orjson.dumps({"type": "CancelRun", "session_id": SESSION, "run_id": f"r{number}"})
    message = aio_pika.Message(body, type="CancelRun", content_type="application/json", headers={"kept": "yes"})
    await channel.default_exchange.publish(message, queue)
    await reject(channel, queue)


async def reject(channel: AbstractChannel, queue: str, count: int = 1) -> None:
    consumer = await channel.get_queue(queue)
    async with consumer.iterator(timeout=20) as messages:
        for _ in range(count):
            await (await anext(messages)).reject(requeue=False)


async def until_dead(channel: AbstractChannel, count: int) -> None:
    async def dead() -> bool:
        return await ready(channel, topology.DEAD_QUEUE) == count

    await until(dead, f"{count} dead letters", timeout=20)


async def ready(channel: AbstractChannel, queue: str) -> int:
    declared = await channel.declare_queue(queue, passive=True)
    return declared.declaration_result.message_count or 0


async def test_listing_says_what_and_why_and_loses_nothing(channel: AbstractChannel, run: AsyncRun) -> None:
    for number in (1, 2, 3):
        await die(channel, number)
    await until_dead(channel, 3)
    first = await listed(run)
    for _ in range(25):  # more looks than a quorum queue's default limit of returns
        await until_dead(channel, 3)
        again = await listed(run)
    assert [{**letter, "age_seconds": 0} for letter in again] == [{**letter, "age_seconds": 0} for letter in first]
    assert len({letter["id"] for letter in first}) == 3
    letter = first[0]
    assert (letter["type"], letter["session"], letter["reason"]) == ("CancelRun", SESSION, "rejected")
    assert (letter["queue"], letter["deaths"]) == (PARTITION, 1)
    assert 0 <= letter["age_seconds"] < 60
    assert len(await listed(run, "--limit", "2")) == 2
    await until_dead(channel, 3)
    code, table, _ = await run("list", "--limit", "1")
    assert code == 0
    assert "CancelRun" in table
    assert "2 more" in table


async def test_a_replay_arrives_as_it_was_sent_and_the_letter_goes(channel: AbstractChannel, run: AsyncRun) -> None:
    for number in (1, 2):
        await die(channel, number)
    await until_dead(channel, 2)
    chosen = (await listed(run))[1]
    await until_dead(channel, 2)
    assert (await run("replay", chosen["id"], "--json"))[:2] == (
        0,
        json.dumps({"replayed": [chosen["id"]]}, indent=2) + "\n",
    )
    await until_dead(channel, 1)
    async with (await channel.get_queue(PARTITION)).iterator() as messages:
        message = await anext(messages)
        await message.ack()
    assert orjson.loads(message.body)["run_id"] == "r2"
    assert (message.type, message.content_type) == ("CancelRun", "application/json")
    assert message.headers == {"kept": "yes"}


async def test_all_are_replayed_once_even_if_they_die_again(channel: AbstractChannel, run: AsyncRun) -> None:
    for number in (1, 2, 3):
        await die(channel, number)
    await until_dead(channel, 3)
    code, out, err = await run("replay", "--all")
    assert code == 0, err
    assert out.startswith("replayed: 3 (")
    assert await ready(channel, topology.DEAD_QUEUE) == 0
    await reject(channel, PARTITION, 3)
    await until_dead(channel, 3)
    assert {letter["deaths"] for letter in await listed(run)} == {1}


async def test_a_letter_set_aside_by_a_front_goes_back_to_the_ingress(channel: AbstractChannel, run: AsyncRun) -> None:
    headers: dict[str, Any] = {
        topology.H_DEAD_REASON: "INVALID_INPUT: threadId: missing", topology.H_DEAD_QUEUE: topology.INGRESS_QUEUE,
        topology.H_DEAD_EXCHANGE: topology.INGRESS_EXCHANGE, topology.H_DEAD_KEY: "run",
        "Authorization": "Bearer x.y.z",
    }  # fmt: skip
    exchange = await channel.get_exchange(topology.DEAD_EXCHANGE)
    await exchange.publish(aio_pika.Message(b'{"threadId":"t1"}', headers=headers), topology.DEAD_QUEUE)
    await until_dead(channel, 1)
    [letter] = await listed(run)
    assert (letter["type"], letter["session"]) == ("run", "t1")
    assert letter["reason"] == "INVALID_INPUT: threadId: missing"
    for args in (("show", letter["id"]), ("show", letter["id"], "--json")):
        await until_dead(channel, 1)
        code, out, _ = await run(*args)
        assert code == 0
        assert "x.y.z" not in out
        assert "(hidden)" in out
        assert "t1" in out
    await until_dead(channel, 1)
    assert (await run("replay", letter["id"]))[0] == 0
    assert await ready(channel, topology.INGRESS_QUEUE) == 1


async def test_what_cannot_be_replayed_stays(channel: AbstractChannel, run: AsyncRun) -> None:
    exchange = await channel.get_exchange(topology.DEAD_EXCHANGE)
    gone = {topology.H_DEAD_QUEUE: "callboard.no-such-queue"}
    await exchange.publish(aio_pika.Message(b"\xff not json", headers={}), topology.DEAD_QUEUE)
    await until_dead(channel, 1)
    code, _, err = await run("replay", "--all")
    assert code == 2
    assert "does not say where it came from" in err
    await until_dead(channel, 1)
    assert (await run("drop", "--all", "--yes"))[0] == 0
    await exchange.publish(aio_pika.Message(b"{}", headers=gone), topology.DEAD_QUEUE)
    await until_dead(channel, 1)
    code, _, err = await run("replay", "--all")
    assert (code, "full or gone" in err) == (1, True)
    await until_dead(channel, 1)


async def test_drop_deletes_what_was_chosen(channel: AbstractChannel, run: AsyncRun) -> None:
    for number in (1, 2, 3):
        await die(channel, number)
    await until_dead(channel, 3)
    chosen = (await listed(run))[1]["id"]
    await until_dead(channel, 3)
    assert (await run("drop", chosen, "--yes"))[:2] == (0, f"dropped: 1 ({chosen})\n")
    await until_dead(channel, 2)
    assert chosen not in [letter["id"] for letter in await listed(run)]


async def test_wrong_usage_is_explained(channel: AbstractChannel, run: AsyncRun) -> None:
    assert (await run("replay"))[0] == 2
    assert (await run("drop", "d1", "--all", "--yes"))[0] == 2
    code, _, err = await run("show", "d-nothing")
    assert code == 1
    assert "there is no dead letter d-nothing" in err


async def test_a_broker_where_nothing_ran_has_no_dead_letters(run: AsyncRun) -> None:
    assert await listed(run) == []


async def test_a_broker_that_is_away_is_one_line(run: AsyncRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_AMQP_URL", "amqp://user:secret@127.0.0.1:1/")
    code, _, err = await run("list")
    assert code == 1
    assert "the broker cannot be reached" in err
    assert "secret" not in err
