"""The embedded services answer, keep their data, come back after a crash, and end with their owner."""

import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aio_pika
import asyncpg
import psutil
import pytest
import redis.asyncio as redis_client

from callboard_runtime.embedded.errors import ChildFailed, EmbeddedError
from callboard_runtime.embedded.stack import EmbeddedStack
from callboard_runtime.embedded.supervisor import RestartPolicy
from waiting import until, wait_until

PATIENT = RestartPolicy(first=0.05, most=0.5, attempts=20)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that the account of PostgreSQL may enter, unlike pytest's own, which is closed to others."""
    with tempfile.TemporaryDirectory(prefix="callboard-embedded-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
async def stack(folder: Path) -> AsyncIterator[EmbeddedStack]:
    async with EmbeddedStack(folder, PATIENT) as running:
        yield running


async def _query(stack: EmbeddedStack, statement: str) -> object:
    connection = await asyncpg.connect(stack.urls.database_url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def _ping_redis(stack: EmbeddedStack) -> bool:
    async with redis_client.Redis.from_url(stack.urls.redis_url) as client:
        return await client.ping()


async def _send_and_get(stack: EmbeddedStack) -> bytes:
    async with await aio_pika.connect(stack.urls.amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("q", durable=True, arguments={"x-queue-type": "quorum"})
        await channel.default_exchange.publish(aio_pika.Message(b"hello"), "q")
        return (await queue.get(timeout=5)).body


async def test_all_three_services_answer(stack: EmbeddedStack) -> None:
    assert str(await _query(stack, "SHOW server_version")).startswith("18")
    assert await _ping_redis(stack)
    assert await _send_and_get(stack) == b"hello"


async def test_passwords_are_required_and_hidden(stack: EmbeddedStack) -> None:
    passwords = [url.split("@")[0].rsplit(":", 1)[1] for url in _urls(stack)]
    assert len(set(passwords)) == 3
    for child in stack.children:
        assert child.pid is not None
        command = " ".join(psutil.Process(child.pid).cmdline())
        assert not any(password in command or password in repr(stack.urls) for password in passwords)
    wrong = stack.urls.database_url.replace("+asyncpg", "").replace(passwords[0], "wrong")
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(wrong)
    with pytest.raises(redis_client.AuthenticationError):
        await redis_client.Redis.from_url(stack.urls.redis_url.replace(passwords[2], "wrong")).ping()
    with pytest.raises(aio_pika.exceptions.ProbableAuthenticationError):
        await aio_pika.connect(stack.urls.amqp_url.replace(passwords[1], "wrong"))


def _urls(stack: EmbeddedStack) -> list[str]:
    return [stack.urls.database_url, stack.urls.amqp_url, stack.urls.redis_url]


async def test_files_with_passwords_are_closed_to_others(stack: EmbeddedStack, folder: Path) -> None:
    secret = [url.split("@")[0].rsplit(":", 1)[1].encode() for url in _urls(stack)]
    holders = _files_with(secret, folder)
    assert holders
    assert [file for file in holders if file.stat().st_mode & 0o077] == []


def _files_with(secrets: list[bytes], folder: Path) -> list[Path]:
    files = [file for file in folder.rglob("*") if file.is_file()]
    return [file for file in files if any(secret in file.read_bytes() for secret in secrets)]


async def test_the_database_outlives_the_stack(folder: Path) -> None:
    async with EmbeddedStack(folder) as first:
        await _query(first, "CREATE TABLE kept AS SELECT 41 + 1 AS n")
    async with EmbeddedStack(folder) as second:
        assert await _query(second, "SELECT n FROM kept") == 42


async def test_a_killed_service_comes_back_on_its_address(
    stack: EmbeddedStack, caplog: pytest.LogCaptureFixture
) -> None:
    await _query(stack, "CREATE TABLE kept AS SELECT 1 AS n")
    for child in stack.children:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
    await until(lambda: all(child.restarts and child.pid for child in stack.children), "restarts", timeout=60)
    assert await _query(stack, "SELECT n FROM kept") == 1
    assert await _ping_redis(stack)
    assert await _send_and_get(stack) == b"hello"
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert all(any(f"{child.spec.name} ended with SIGKILL" in line for line in told) for child in stack.children)


async def test_two_stacks_cannot_share_a_folder(stack: EmbeddedStack, folder: Path) -> None:
    with pytest.raises(EmbeddedError, match=rf"process {os.getpid()} already runs .* CALLBOARD_EMBEDDED__DATA_DIR"):
        await EmbeddedStack(folder).__aenter__()
    assert await _ping_redis(stack)


async def test_a_service_that_cannot_start_says_why_and_what_to_do(folder: Path) -> None:
    async with EmbeddedStack(folder):
        pass
    (folder / "postgres-18" / "cluster" / "postgresql.conf").write_text("shared_buffers = nonsense\n")
    with pytest.raises(ChildFailed) as failure:
        await EmbeddedStack(folder, RestartPolicy(attempts=1)).__aenter__()
    assert "nonsense" in str(failure.value)
    assert "CALLBOARD_DATABASE_URL" in str(failure.value)


async def test_a_lost_password_file_says_what_to_do(folder: Path) -> None:
    async with EmbeddedStack(folder):
        pass
    (folder / "postgres-18" / "password").unlink()
    with pytest.raises(EmbeddedError, match=r"move .*postgres-18 away"):
        await EmbeddedStack(folder).__aenter__()


_OWNER = """
import asyncio, sys
from pathlib import Path
from callboard_runtime.embedded.stack import EmbeddedStack

async def main():
    async with EmbeddedStack(Path(sys.argv[1])) as stack:
        print(*[child.pid for child in stack.children], flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can tie a child to its parent's life")
def test_services_end_with_a_killed_owner(folder: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", _OWNER, str(folder)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pids = [int(pid) for pid in owner.stdout.readline().split()]
    assert len(pids) == 3
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not any(map(_lives, pids)), "end of the services", timeout=20)


def _lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
