"""Broker, database and Redis restart, lose what they may lose, or stay away, in the middle of runs."""

import asyncio

import pytest
import redis as redis_client

from faults.support import RUNS, all_end, attempts, check_calls, in_mid_answer, one_more
from front_client import FrontClient, fresh
from model_server import ANSWER, ModelServer
from promises import check_run
from services import PostgresServer, RabbitServer, RedisServer
from stack import Callboard
from waiting import until

pytestmark = pytest.mark.timeout(240)


async def test_broker_restarts(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, rabbit: RabbitServer
) -> None:
    following = await in_mid_answer(client, model, key)
    await asyncio.to_thread(rabbit.restart)
    model.release(key)
    await all_end(callboard, client, following)
    for thread, run, _, _ in following:
        assert await attempts(callboard, client, run) == ["finished"]
        assert len(await client.calls(thread)) == 1
    assert len(model.of(key)) == RUNS, "a broker that restarts repeats no run"
    await one_more(callboard, client)


async def test_answers_end_while_the_broker_is_away(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, rabbit: RabbitServer
) -> None:
    following = await in_mid_answer(client, model, key)
    await asyncio.to_thread(rabbit.kill)
    model.release(key)
    await until(lambda: all(request.complete for request in model.of(key)), "complete answers")
    await asyncio.to_thread(rabbit.start)
    await all_end(callboard, client, following)
    assert len(model.of(key)) == RUNS
    await one_more(callboard, client)


async def test_database_restarts(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, postgres: PostgresServer
) -> None:
    following = await in_mid_answer(client, model, key)
    await asyncio.to_thread(postgres.kill)
    model.release(key)
    await until(lambda: all(request.complete for request in model.of(key)), "complete answers")
    await asyncio.to_thread(postgres.start)
    await all_end(callboard, client, following)
    for thread, _, _, _ in following:
        rows = await client.calls(thread)
        assert [row["status"] for row in rows].count("recorded") == 1
    await one_more(callboard, client)


async def test_redis_is_emptied(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, redis_server: RedisServer
) -> None:
    following = await in_mid_answer(client, model, key)
    with redis_client.Redis.from_url(redis_server.url) as redis:
        redis.flushall()
    late = [client.follow(run) for _, run, _, _ in following]
    model.release(key)
    await all_end(callboard, client, following)
    for (_, run, _, _), (reader, task) in zip(following, late, strict=True):
        await asyncio.wait_for(task, 60)
        await check_run(callboard, client, run, readers=[reader])
    assert len(model.of(key)) == RUNS


async def test_redis_goes_away(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, redis_server: RedisServer
) -> None:
    following = await in_mid_answer(client, model, key)
    await asyncio.to_thread(redis_server.kill)
    model.release(key)
    await all_end(callboard, client, following)
    thread, without = fresh("thread"), fresh("key")
    run = await client.start(f"key:{without}", thread=thread)
    await check_run(callboard, client, run, readers=[await client.read(run)], text=ANSWER)
    await check_calls(client, model, without, thread, kills=0)
    await asyncio.to_thread(redis_server.start)
    await one_more(callboard, client)


async def test_worker_dies_while_redis_is_away(
    callboard: Callboard, client: FrontClient, model: ModelServer, key: str, redis_server: RedisServer
) -> None:
    """What was shown and never committed is gone with both: the readers are told so, and the run goes on."""
    following = await in_mid_answer(client, model, key)
    await asyncio.to_thread(redis_server.kill)
    for worker in callboard.of("worker"):
        worker.kill()
    model.release(key)
    await asyncio.to_thread(callboard.start, "worker")
    await all_end(callboard, client, following)
    assert len(model.of(key)) == 2 * RUNS
