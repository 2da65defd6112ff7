"""Stacks that many tests use: one on real RabbitMQ, PostgreSQL and Redis, one on the embedded services.

They start on first use and live as long as pytest; tests keep out of each other's way by using users of their own.
"""

import contextlib
import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from pathlib import Path

import psutil

from callboard_runtime.embedded.launch import launch_command
from callboard_runtime.persistence import migrate
from services.session import Services
from stack import Callboard, Urls, Zygote

_TESTS = Path(__file__).parent
_SETTINGS = {"CALLBOARD_CONFIG__DIR": str(_TESTS / "e2e" / "config")}
# The kernel ties a child to the thread that started it: this one ends with pytest.
_spawner = ThreadPoolExecutor(1, thread_name_prefix="embedded-spawner")


class SharedStacks:
    """`rabbitmq` and `embedded`, and the zygote that all stacks fork from."""

    def __init__(self, folder: Path, services: Services) -> None:
        self._folder, self._services = folder, services
        self._undo = contextlib.ExitStack()
        self._made: dict[str, Callboard] = {}
        self._embedded_process: subprocess.Popen[str] | None = None

    @cached_property
    def zygote(self) -> Zygote:
        zygote = Zygote(self._folder)
        self._undo.callback(zygote.stop)
        return zygote

    def stack(self, name: str) -> Callboard:
        """The stack with a front, actors and a worker, all of them alive; `name` is `rabbitmq` or `embedded`."""
        if name not in self._made:
            _ = self.zygote  # so that it is imported while the services start
            urls = self.real() if name == "rabbitmq" else self._embedded()
            self._made[name] = self.private(name, urls, _SETTINGS)
        self._made[name].ensure(http=1, actors=1, worker=1)
        return self._made[name]

    def private(self, name: str, urls: Urls, settings: Mapping[str, str] | None = None) -> Callboard:
        """A stack that somebody else starts; it is killed at the end at the latest."""
        return self._undo.enter_context(Callboard(urls, self._folder / name, self.zygote, settings))

    def embedded_child(self, name: str) -> psutil.Process:
        """The process of an embedded service: `amqp`, `postgres` or `valkey`. Raises LookupError while it is away."""
        assert self._embedded_process is not None
        for child in psutil.Process(self._embedded_process.pid).children():
            if name in " ".join(child.cmdline()):
                return child
        raise LookupError(f"no embedded {name} runs")

    def close(self) -> None:
        self._undo.close()

    def real(self) -> Urls:
        """A database, a vhost and a Redis database that nobody else uses."""
        template = self._services.template()
        database = template.databases.create(template.url)
        return Urls(database, self._services.rabbit().create_vhost(), self._services.redis().next_database())

    def _embedded(self) -> Urls:
        process = self._embedded_process = _spawner.submit(self._spawn_embedded).result()
        self._undo.callback(_end, process)
        assert process.stdout is not None
        answer: Future[str] = ThreadPoolExecutor(1).submit(process.stdout.readline)
        urls = Urls(**json.loads(answer.result(120)))
        migrate.upgrade(urls.database)
        return urls

    def _spawn_embedded(self) -> "subprocess.Popen[str]":
        # Below the services' folder, which the account of PostgreSQL may enter.
        program = [sys.executable, str(_TESTS / "embedded_services.py"), str(self._services.folder / "embedded")]
        with (self._folder / "embedded.log").open("ab") as log:
            return subprocess.Popen(
                launch_command(program, account=None, death_signal=15),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )


def _end(process: "subprocess.Popen[str]") -> None:
    process.communicate(timeout=120)
