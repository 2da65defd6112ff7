"""The services, the model and the Callboard processes that workloads run on; each starts when it is first needed."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TypeVar

import asyncpg
import jwt

from benchmarks.meter import Groups
from benchmarks.processes import ROOT, Child, answers, program
from callboard_runtime.embedded.paths import free_port
from callboard_runtime.persistence import migrate

sys.path.insert(0, str(ROOT / "tests"))  # the services of the tests are those of the benchmarks
from services.postgres import Databases, PostgresServer
from services.process import ServiceProcess, session_folder
from services.rabbit import RabbitServer
from services.redis import RedisServer

SECRET = "a secret that only benchmarks use, and long enough"
PLENTY = "1000000"

Service = TypeVar("Service", bound=ServiceProcess)


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def token(user: str) -> str:
    """A bearer token of `user`, valid for a day."""
    return jwt.encode({"sub": user, "exp": int(time.time()) + 86_400}, SECRET, algorithm="HS256")


@dataclass
class Stack:
    """Callboard processes on a database, a virtual host and a Redis database of their own."""

    database: str
    amqp: str
    redis: str
    services: Groups
    children: dict[str, list[Child]] = field(default_factory=dict)
    urls: list[str] = field(default_factory=list)  # of the fronts
    launcher: tuple[str, ...] = ("callboard_runtime.cli",)  # the module that starts a process, and what it is told

    @property
    def url(self) -> str:
        return self.urls[-1]

    @property
    def groups(self) -> dict[str, list[int]]:
        """Process ids by what they are, the services included."""
        own = {kind: [child.pid for child in children] for kind, children in self.children.items()}
        return {**own, **{name: list(pids) for name, pids in self.services.items()}}

    @property
    def environment(self) -> dict[str, str]:
        return {
            "CALLBOARD_DATABASE_URL": self.database,
            "CALLBOARD_AMQP_URL": self.amqp,
            "CALLBOARD_REDIS_URL": self.redis,
            "CALLBOARD_AUTH__JWT_SECRET": SECRET,
            "CALLBOARD_LOG_LEVEL": "WARNING",
            "CALLBOARD_HTTP__RUNS_PER_MINUTE": PLENTY,
            "CALLBOARD_HTTP__MAX_STREAMS_PER_USER": PLENTY,
            "CALLBOARD_HTTP__MAX_STREAMS": PLENTY,
        }

    async def query(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        connection = await asyncpg.connect(self.database.replace("+asyncpg", ""))
        try:
            return await connection.fetch(statement, *arguments)
        finally:
            await connection.close()


class World:
    """Use it with `with`: everything it started ends with it."""

    def __init__(self) -> None:
        self._undo = ExitStack()

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        say("stopping")
        self._undo.close()

    @cached_property
    def folder(self) -> Path:
        return session_folder()

    @cached_property
    def rabbit(self) -> RabbitServer:
        return self._service(RabbitServer(self.folder / "rabbit"))

    @cached_property
    def postgres(self) -> PostgresServer:
        """With fsync, and the shared buffers that a small server has."""
        return self._service(PostgresServer(self.folder / "postgres", settings={"shared_buffers": "256MB"}))

    @cached_property
    def redis(self) -> RedisServer:
        return self._service(RedisServer(self.folder / "redis"))

    @cached_property
    def model(self) -> str:
        """Address of the OpenAI-compatible model, with `/v1`."""
        return self.program("model") + "/v1"

    def program(self, name: str, *arguments: str, python: str = sys.executable) -> str:
        """Start one of the programs; it runs until the end. Returns its address."""
        return self.metered(name, *arguments, python=python)[0]

    def metered(self, name: str, *arguments: str, python: str = sys.executable) -> tuple[str, Groups]:
        """The same, with its process to be metered."""
        say(f"starting {name}")
        child, url = program(name, self.folder, *arguments, python=python)
        self._undo.callback(child.stop)
        return url, {"server": [child.pid]}

    def services(self) -> Groups:
        """The processes of RabbitMQ, PostgreSQL and Redis."""
        return {"RabbitMQ": [self.rabbit.pid], "PostgreSQL": [self.postgres.pid], "Redis": [self.redis.pid]}

    @contextmanager
    def stack(self, *launcher: str, **counts: int) -> Iterator[Stack]:
        """So many `http`, `actors` and `worker` processes on fresh storage, ready; killed at the end.

        `launcher` starts them in the place of Callboard's own command.
        """
        database = Databases(self.postgres.url).create()
        migrate.upgrade(database)
        stack = Stack(database, self.rabbit.create_vhost(), self.redis.next_database(), self.services())
        stack.launcher = launcher or stack.launcher
        say(f"starting {', '.join(f'{count} {kind}' for kind, count in counts.items())}")
        with ExitStack() as undo:
            for kind, count in counts.items():
                for _ in range(count):
                    undo.enter_context(self.process(stack, kind))
            yield stack

    @cached_property
    def chat_stack(self) -> Stack:
        """One front, one actor process and the workers, with the model behind them; for every chat workload."""
        return self._undo.enter_context(self.stack(actors=1, worker=self.workers, http=1))

    workers = 1

    @contextmanager
    def process(self, stack: Stack, kind: str, *, forks: int = 1, wait: bool = True) -> Iterator[Child]:
        """One more process of the stack, a worker with so many `forks`; stopped at the end."""
        port = free_port()
        environment = {
            **stack.environment,
            "CALLBOARD_HTTP__PORT": str(port),
            "CALLBOARD_LLM__API_BASE__OPENAI": self.model,
            "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI": "none",
            "CALLBOARD_LLM__DEFAULT_MODEL": "openai/bench",
            "CALLBOARD_WORKER__PROCESSES": str(forks),
        }
        argv = [sys.executable, "-m", *stack.launcher, kind]
        child = Child(kind, argv, environment, self.folder / f"{kind}-{os.urandom(3).hex()}.log")
        stack.children.setdefault(kind, []).append(child)
        if kind == "http":
            stack.urls.append(f"http://127.0.0.1:{port}")
        try:
            if wait:
                child.wait_ready(partial(_serves, stack, kind, len(stack.children[kind]) - 1 + forks))
            yield child
        finally:
            stack.children[kind].remove(child)
            child.stop()

    def _service(self, service: Service) -> Service:
        say(f"starting {service.folder.name}")
        service.start()
        self._undo.callback(service.kill)
        return service


def _serves(stack: Stack, kind: str, count: int) -> bool:
    """Whether the newest front answers, or so many of the others beat."""
    if kind == "http":
        return answers(f"{stack.url}/readyz")
    rows = asyncio.run(stack.query("SELECT count(*) FROM processes WHERE kind = $1", kind))
    return rows[0][0] >= count
