"""What happens to processes, services and connections while clients are at work; drawn from the seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import aio_pika
import redis.asyncio as redis_client
from redis.exceptions import RedisError

from callboard_runtime.broker import topology
from services import PostgresServer, RabbitServer, RedisServer, TcpProxy
from stack import KINDS, Callboard, Node

Blow = Callable[[], Awaitable[None]]


@dataclass(frozen=True)
class Servers:
    """The services behind an installation, and the proxies before them."""

    postgres: PostgresServer
    rabbit: RabbitServer
    redis: RedisServer
    proxies: dict[str, TcpProxy]


FAULT_LASTS = 2.0  # seconds: how long a slow or silent line stays so; nothing is waited for


class Blows:
    """`strike()` does one thing; a process that dies is replaced at once, a frozen one thawed in time."""

    def __init__(self, callboard: Callboard, servers: Servers, chance: random.Random, frozen_for: float) -> None:
        self._callboard, self._servers, self._chance, self._frozen_for = callboard, servers, chance, frozen_for
        self.counts: Counter[str] = Counter()
        self._thawing: set[asyncio.Task[None]] = set()
        self._light: dict[str, Blow] = {
            **{f"kill {kind}": (lambda kind=kind: self._kill(kind)) for kind in KINDS},
            **{f"freeze {kind}": (lambda kind=kind: self._freeze(kind)) for kind in ("actors", "worker")},
            **{f"stop {kind}": (lambda kind=kind: self._stop(kind)) for kind in KINDS},
            **{f"cut {name}": (lambda name=name: self._cut(name)) for name in servers.proxies},
            **{f"delay {name}": (lambda name=name: self._delay(name)) for name in servers.proxies},
            "silence": self._silence,
            "empty Redis": self._empty_redis,
            "lose wake-ups": self._lose_wakeups,
        }
        self._heavy: dict[str, Blow] = {
            "kill PostgreSQL": lambda: self._replace(servers.postgres),
            "kill Redis": lambda: self._replace(servers.redis),
            "restart RabbitMQ": lambda: asyncio.to_thread(servers.rabbit.restart),
        }

    async def strike(self, *, heavy: bool, name: str | None = None) -> None:
        """Strike the named blow, or any."""
        choices = self._light | (self._heavy if heavy else {})
        name = name or self._chance.choice(list(choices))
        self.counts[name] += 1
        await choices[name]()

    async def mend(self, processes: dict[str, int]) -> None:
        """Everything there and well again."""
        for proxy in self._servers.proxies.values():
            proxy.delay(0)
            proxy.resume()
        await asyncio.gather(*self._thawing)
        await asyncio.to_thread(lambda: self._callboard.ensure(**processes))

    def _some(self, kind: str) -> Node | None:
        living = [node for node in self._callboard.of(kind) if not node.paused]
        return self._chance.choice(living) if living else None

    async def _kill(self, kind: str) -> None:
        if node := self._some(kind):
            await asyncio.to_thread(node.kill)
        await asyncio.to_thread(self._callboard.spawn, kind)

    async def _stop(self, kind: str) -> None:
        """A rolling restart: the new one comes before the old one goes."""
        node = self._some(kind)
        await asyncio.to_thread(self._callboard.spawn, kind)
        if node is not None:
            await asyncio.to_thread(node.stop)

    async def _freeze(self, kind: str) -> None:
        if (node := self._some(kind)) is None:
            return
        node.pause()

        async def thaw() -> None:
            await asyncio.sleep(self._frozen_for)
            node.resume()

        task = asyncio.create_task(thaw())
        self._thawing.add(task)
        task.add_done_callback(self._thawing.discard)

    async def _cut(self, name: str) -> None:
        await self._servers.proxies[name].disconnect_all()

    async def _delay(self, name: str) -> None:
        proxy = self._servers.proxies[name]
        proxy.delay(0.05 + self._chance.random() * 0.2)
        await asyncio.sleep(FAULT_LASTS)
        proxy.delay(0)

    async def _silence(self) -> None:
        proxy = self._servers.proxies[self._chance.choice(list(self._servers.proxies))]
        proxy.pause()
        await asyncio.sleep(FAULT_LASTS)
        proxy.resume()

    async def _empty_redis(self) -> None:
        with suppress(RedisError, OSError):
            async with redis_client.Redis.from_url(self._servers.redis.url) as redis:
                await redis.flushall()

    async def _lose_wakeups(self) -> None:
        with suppress(Exception):  # no queue, or no broker: then there is nothing to lose
            async with await aio_pika.connect(self._callboard.urls.amqp) as connection:
                queue = await (await connection.channel()).get_queue(topology.WORKER_QUEUE)
                await queue.purge()

    async def _replace(self, server: Any) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(self._chance.random() * 3)
        await asyncio.to_thread(server.start)
