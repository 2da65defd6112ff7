"""The fixtures themselves: they give what they promise, alone to each test, and leave nothing behind."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Awaitable, Callable
from pathlib import Path

import aio_pika
import asyncpg
import psutil
import pytest
import redis.asyncio as redis_client

from callboard_runtime.persistence import migrate
from services import PostgresServer, RabbitServer, RedisServer, TcpProxy
from waiting import wait_until

Proxies = Callable[[str], Awaitable[TcpProxy]]
TESTS = Path(__file__).parents[1]


async def _query(url: str, statement: str) -> object:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), timeout=5)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_has_a_database_of_its_own(postgres_url: str, turn: int) -> None:
    await _query(postgres_url, "CREATE TABLE only_here (n int)")
    assert await _query(postgres_url, "SELECT count(*) FROM only_here") == 0, turn


async def test_the_database_has_the_newest_schema(postgres_url: str) -> None:
    assert await migrate.current_revision(postgres_url) == migrate.head()


@pytest.mark.parametrize("turn", [1, 2])
async def test_each_test_has_a_virtual_host_of_its_own(rabbitmq_vhost_url: str, turn: int) -> None:
    async with await aio_pika.connect(rabbitmq_vhost_url) as connection:
        channel = await connection.channel()
        arguments = {"x-queue-type": "quorum"}
        queue = await channel.declare_queue("only-here", durable=True, arguments=arguments)
        assert queue.declaration_result.message_count == 0, turn
        await channel.default_exchange.publish(aio_pika.Message(b"kept"), "only-here")


async def test_keys_under_the_prefix_live_in_a_real_redis(redis_url: str, redis_prefix: str) -> None:
    async with redis_client.Redis.from_url(redis_url) as client:
        await client.set(f"{redis_prefix}k", "v")
        assert await client.eval("return redis.call('get', KEYS[1])", 1, f"{redis_prefix}k") == b"v"


async def test_a_killed_postgres_keeps_what_was_committed(private_postgres: PostgresServer) -> None:
    await _query(private_postgres.url, "CREATE TABLE IF NOT EXISTS kept AS SELECT 1 AS n")
    before = private_postgres.pid
    private_postgres.kill()
    with pytest.raises(ConnectionRefusedError):
        await _query(private_postgres.url, "SELECT 1")
    private_postgres.start()
    assert await _query(private_postgres.url, "SELECT n FROM kept") == 1
    assert private_postgres.pid != before


async def test_a_frozen_postgres_answers_only_after_resume(private_postgres: PostgresServer) -> None:
    connection = await asyncpg.connect(private_postgres.url.replace("+asyncpg", ""))
    private_postgres.pause()
    asking = asyncio.create_task(connection.fetchval("SELECT 7"))
    done, _ = await asyncio.wait([asking], timeout=0.3)
    assert not done
    private_postgres.resume()
    assert await asyncio.wait_for(asking, 10) == 7
    await connection.close()


async def test_a_killed_redis_forgets(private_redis: RedisServer) -> None:
    async with redis_client.Redis.from_url(private_redis.url) as client:
        await client.set("k", "v")
    await asyncio.to_thread(private_redis.kill)
    await asyncio.to_thread(private_redis.start)
    async with redis_client.Redis.from_url(private_redis.url) as client:
        assert await client.get("k") is None


async def test_a_killed_rabbit_keeps_confirmed_messages(private_rabbit: RabbitServer) -> None:
    url = private_rabbit.create_vhost()
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        await channel.declare_queue("kept", durable=True, arguments={"x-queue-type": "quorum"})
        message = aio_pika.Message(b"1", delivery_mode=aio_pika.DeliveryMode.PERSISTENT)
        await channel.default_exchange.publish(message, "kept")
        await asyncio.to_thread(private_rabbit.kill)
    await asyncio.to_thread(private_rabbit.start)
    async with await aio_pika.connect(url) as connection:
        queue = await (await connection.channel()).get_queue("kept")
        assert (await queue.get(timeout=60)).body == b"1"
    private_rabbit.delete_vhost(url)


@pytest.mark.usefixtures("rabbitmq_vhost_url", "postgres_url", "redis_url")
def test_servers_listen_on_the_loopback_address_only() -> None:
    addresses: set[str] = set()
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
            addresses |= {connection.laddr.ip for connection in listening}
    assert {"127.0.0.1"} <= addresses <= {"127.0.0.1", "::1"}


async def _ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    writer.write(b"PING\r\n")
    return await asyncio.wait_for(reader.readline(), 10)


async def test_the_proxy_cuts_connections_and_takes_new_ones(redis_url: str, tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy(redis_url)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await _ping(reader, writer) == b"+PONG\r\n"
    assert proxy.connections == 1
    await proxy.disconnect_all()
    with pytest.raises(ConnectionResetError):
        await reader.read(1)
    writer.close()
    again, sink = await asyncio.open_connection("127.0.0.1", proxy.port)
    assert await _ping(again, sink) == b"+PONG\r\n"
    sink.close()


async def test_a_slow_proxy_holds_every_answer_back(redis_url: str, tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy(redis_url)
    proxy.delay(0.1)
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    began = asyncio.get_running_loop().time()
    assert await _ping(reader, writer) == b"+PONG\r\n"
    assert asyncio.get_running_loop().time() - began >= 0.2  # once on the way there, once back
    writer.close()


async def test_a_refusing_proxy_lets_nobody_in_until_it_accepts(redis_url: str, tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy(redis_url)
    port = proxy.port
    await proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)
    await proxy.accept()
    assert proxy.port == port
    async with redis_client.Redis.from_url(proxy.url(redis_url)) as client:
        assert await client.ping()


async def test_a_paused_proxy_is_silent_until_it_resumes(redis_url: str, tcp_proxy: Proxies) -> None:
    proxy = await tcp_proxy(redis_url)
    async with redis_client.Redis.from_url(proxy.url(redis_url)) as client:
        await client.ping()
        proxy.pause()
        asking = asyncio.create_task(client.ping())
        done, _ = await asyncio.wait([asking], timeout=0.3)
        assert not done
        proxy.resume()
        assert await asyncio.wait_for(asking, 10)


_SLEEPER = """
    import asyncio, sys

    async def test_it(rabbitmq_vhost_url, postgres_url, redis_url, services):
        print("PIDS", *[server.pid for server in services._servers], flush=True)
        await asyncio.sleep(600)
"""


def test_a_killed_pytest_leaves_no_server_behind(tmp_path: Path) -> None:
    shutil.copy(TESTS / "conftest.py", tmp_path)
    (tmp_path / "test_sleeper.py").write_text(textwrap.dedent(_SLEEPER))
    config = TESTS.parent / "pyproject.toml"
    argv = [sys.executable, "-m", "pytest", "-s", "-c", str(config), "--rootdir", str(tmp_path)]
    run = subprocess.Popen(
        [*argv, str(tmp_path / "test_sleeper.py")],
        env=os.environ | {"PYTHONPATH": str(TESTS)},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert run.stdout is not None
    line = next((line for line in run.stdout if "PIDS" in line), "")
    pids = [int(word) for word in line.split("PIDS")[1].split()]
    assert len(pids) == 3
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    wait_until(lambda: not any(map(_lives, pids)), "end of the servers", timeout=20)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
