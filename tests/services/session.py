"""The servers of one pytest session: started once, in the background, only those that the selected tests ask for."""

import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest

from services import external, install
from services.docker import DockerRabbit, engine_answers
from services.postgres import Databases, PostgresServer
from services.process import ServiceProcess, ServiceUnavailable, session_folder
from services.rabbit import RabbitServer
from services.redis import RedisServer

AMQP, DATABASE, REDIS = "CALLBOARD_TEST_AMQP_URL", "CALLBOARD_TEST_DATABASE_URL", "CALLBOARD_TEST_REDIS_URL"


class VirtualHosts(Protocol):
    """Where a test gets a virtual host of its own."""

    def create_vhost(self) -> str: ...
    def delete_vhost(self, url: str) -> None: ...


class RedisDatabases(Protocol):
    """Where a test gets a Redis database."""

    def next_database(self) -> str: ...


@dataclass(frozen=True)
class Template:
    """The migrated database that each test's own is copied from."""

    databases: Databases
    url: str


Result = TypeVar("Result")


class Services:
    """Starts what is asked for and keeps it until the session ends.

    Shared servers trade durability for speed; the private ones are for tests that kill, freeze and restart.
    """

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(6, thread_name_prefix="service-start")
        self._futures: dict[str, Future[Any]] = {}
        self._servers: list[ServiceProcess | DockerRabbit] = []
        self._starters: Mapping[str, Callable[[], Any]] = {
            "template": self._start_template,
            "redis": self._start_redis,
            "rabbit": self._start_rabbit,
            "rabbit4": lambda: self._started(RabbitServer(self.folder / "rabbit4", version="4")),
            "private_postgres": lambda: self._started(PostgresServer(self.folder / "private_postgres")),
            "private_redis": lambda: self._started(RedisServer(self.folder / "private_redis")),
            "private_rabbit": lambda: self._started(private_rabbit(self.folder / "private_rabbit")),
        }

    @cached_property
    def folder(self) -> Path:
        return session_folder()

    def begin(self, name: str) -> None:
        """Start a service in the background, once."""
        if name not in self._futures:
            self._futures[name] = self._threads.submit(self._starters[name])

    def template(self) -> Template:
        return self._wait("template")

    def redis(self) -> RedisDatabases:
        return self._wait("redis")

    def rabbit(self) -> VirtualHosts:
        return self._wait("rabbit")

    def rabbit4(self) -> VirtualHosts:
        return self._wait("rabbit4")

    def private_postgres(self) -> PostgresServer:
        return _whole(self._wait("private_postgres"))

    def private_redis(self) -> RedisServer:
        return _whole(self._wait("private_redis"))

    def private_rabbit(self) -> "RabbitServer | DockerRabbit":
        return _whole(self._wait("private_rabbit"))

    def stop(self) -> None:
        """Stop every server, in parallel, and leave nothing on foreign ones."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        made = self._futures.get("template")
        if os.environ.get(DATABASE) and made is not None and not made.cancelled() and made.exception() is None:
            made.result().databases.drop(made.result().url)
        with ThreadPoolExecutor(6) as threads:
            for done in [threads.submit(_discard, server) for server in self._servers]:
                done.result()

    def _wait(self, name: str) -> Any:
        self.begin(name)
        try:
            return self._futures[name].result()
        except ServiceUnavailable as missing:
            # Locally a missing service is a skip that says how to get it; in CI it would hide untested code.
            if os.environ.get("CI"):
                pytest.fail(str(missing), pytrace=False)
            pytest.skip(str(missing))

    def _started(self, server: Any) -> Any:
        install.say(f"starting {server.folder.name}")
        self._servers.append(server)
        server.start()
        return server

    def _start_template(self) -> Template:
        from callboard_runtime.persistence import migrate  # here, so that unit tests do not wait for SQLAlchemy

        if url := os.environ.get(DATABASE):
            databases = Databases(url)
        else:
            databases = Databases(self._started(PostgresServer(self.folder / "postgres", durable=False)).url)
        template = databases.create()
        migrate.upgrade(template)
        return Template(databases, template)

    def _start_redis(self) -> RedisDatabases:
        if url := os.environ.get(REDIS):
            return external.OneRedisDatabase(url)
        return self._started(RedisServer(self.folder / "redis"))

    def _start_rabbit(self) -> VirtualHosts:
        if url := os.environ.get(AMQP):
            return external.ForeignRabbit(url)
        return self._started(private_rabbit(self.folder / "rabbit"))


def private_rabbit(folder: Path) -> RabbitServer | DockerRabbit:
    """A RabbitMQ node of our own: a process where the binaries can be had, else a container."""
    try:
        return RabbitServer(folder)
    except ServiceUnavailable:
        if engine_answers():
            return DockerRabbit(folder)
        raise


def _whole(server: Any) -> Any:
    server.ensure_running()
    return server


def _discard(server: Any) -> None:
    # The data goes with the session, so nothing is gained by a slow, orderly shutdown.
    server.resume()
    server.kill()
