"""Random processes die, freeze and restart while runs are at work: every run ends once and everything adds up.

CALLBOARD_TEST_CHAOS_ROUNDS says how many rounds; CALLBOARD_TEST_CHAOS_SEED repeats one that failed.
"""

import asyncio
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import redis as redis_client

from faults.conftest import PROCESSES
from faults.support import attempts
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run
from services import PostgresServer, RabbitServer, RedisServer
from stack import Callboard, until

ROUNDS = int(os.environ.get("CALLBOARD_TEST_CHAOS_ROUNDS", "2"))
SEED = int(os.environ.get("CALLBOARD_TEST_CHAOS_SEED", "0")) or None
RUNS, BLOWS = 12, 4
CANCELLED = 0.2  # of those that are accepted by the last blow

pytestmark = pytest.mark.timeout(300)


@dataclass(frozen=True)
class Order:
    """A run to be started, and how many model calls it takes when nothing goes wrong."""

    text: str
    agent: str
    calls: int

    @classmethod
    def any(cls, chance: random.Random, key: str) -> "Order":
        agent = chance.choice(["chat", "default"])
        tool = chance.choice(["", f" call:read:{fresh('label')}"])
        # A round of tools is another call, in each stage.
        calls = (1 if agent == "chat" else 2) * (2 if tool else 1)
        return cls(f"key:{key} pace:{chance.randrange(10, 200)}{tool}", agent, calls)


@pytest.mark.parametrize("number", range(ROUNDS))
async def test_everything_ends_once(
    callboard: Callboard,
    client: FrontClient,
    model: ModelServer,
    key: str,
    postgres: PostgresServer,
    rabbit: RabbitServer,
    redis_server: RedisServer,
    number: int,
) -> None:
    seed = SEED or random.SystemRandom().randrange(1, 2**32)
    print(f"CALLBOARD_TEST_CHAOS_SEED={seed}")
    chance = random.Random(seed)
    blows = Blows(callboard, (rabbit, postgres, redis_server), chance)
    threads = [fresh("thread") for _ in range(RUNS // 2)]  # two runs each
    orders = [Order.any(chance, key) for _ in range(RUNS)]
    starting = [
        asyncio.create_task(client.start(order.text, thread=thread, agent=order.agent))
        for order, thread in zip(orders, threads * 2, strict=True)
    ]
    await until(lambda: model.of(key), "the first run at work")
    for _ in range(BLOWS):
        await asyncio.sleep(chance.random())  # not to wait for anything: the blow is to fall at any moment
        await asyncio.to_thread(blows.strike)
    cancelled = {task.result() for task in starting if task.done() and chance.random() < CANCELLED}
    await asyncio.gather(*(client.cancel(run) for run in cancelled))
    await asyncio.to_thread(callboard.ensure, **PROCESSES)
    runs = await asyncio.gather(*starting)
    following = [client.follow(run) for run in runs]
    await asyncio.wait_for(asyncio.gather(*(task for _, task in following)), 120)
    for run, (reader, _) in zip(runs, following, strict=True):
        status = (await client.run(run))["status"]
        assert status == "succeeded" or (status == "cancelled" and run in cancelled), (run, status)
        text = ANSWER if status == "succeeded" else None
        await check_run(callboard, client, run, readers=[reader], status=status, text=text)
    rows = [row for thread in threads for row in await client.calls(thread)]
    lost = sum(row["status"] == "lost" for row in rows)
    tries = sum([len(await attempts(callboard, client, run)) for run in runs])
    # A kill, or a cancel, may come between a row and its request.
    unsure = sum(row["status"] != "recorded" for row in rows)
    assert len(model.of(key)) <= len(rows) <= len(model.of(key)) + unsure
    assert lost <= tries
    if not cancelled:
        assert len(rows) == sum(order.calls for order in orders) + lost


class Blows:
    """What may happen at any moment; a process that dies is replaced at once."""

    def __init__(
        self, callboard: Callboard, servers: tuple[RabbitServer, PostgresServer, RedisServer], chance: random.Random
    ) -> None:
        self._callboard, self._servers, self._chance = callboard, servers, chance
        often: list[Callable[[], None]] = [
            lambda: self._kill("worker"),
            lambda: self._kill("actors"),
            lambda: self._kill("http"),
            self._freeze,
            self._empty_redis,
        ]
        self._all = [*often, *often, self._restart]

    def strike(self) -> None:
        self._chance.choice(self._all)()

    def _kill(self, kind: str) -> None:
        self._chance.choice(self._callboard.of(kind)).kill()
        self._callboard.spawn(kind)

    def _freeze(self) -> None:
        for node in self._callboard.nodes:
            node.resume()
        self._chance.choice(self._callboard.of("worker") + self._callboard.of("actors")).pause()

    def _restart(self) -> None:
        server = self._chance.choice(self._servers)
        server.kill()
        server.start()

    def _empty_redis(self) -> None:
        with redis_client.Redis.from_url(self._servers[2].url) as redis:
            redis.flushall()
