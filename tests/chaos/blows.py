"""What happens to processes, services and connections while clients are at work; drawn from the seed."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import redis.asyncio as redis_client
from aio_pika import Message
from aio_pika.exceptions import DeliveryError
from redis.exceptions import RedisError

from callboard_runtime.broker import topology
from callboard_runtime.domain.commands import CancelRun, encode_command
from callboard_runtime.entry.wakeup import wakeup_message
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


FAULT_LASTS = 2.0  # seconds: how long a slow or silent line, or a frozen service, stays so; nothing is waited for
HOUR = timedelta(hours=1)
BURST = 1500  # commands in one go, more than a partition's queue takes in the rounds


class Blows:
    """`strike()` does one thing; a process that dies is replaced at once, a frozen one thawed in time."""

    def __init__(
        self,
        callboard: Callboard,
        servers: Servers,
        chance: random.Random,
        frozen_for: Mapping[str, float],
        wanted: list[str],
    ) -> None:
        """`frozen_for`: seconds by kind of process; `wanted` is what is still to come before anything comes again."""
        self._callboard, self._servers, self._chance, self._frozen_for = callboard, servers, chance, frozen_for
        self.counts: Counter[str] = Counter()
        self._thawing: set[asyncio.Task[None]] = set()
        self._light: dict[str, Blow] = {
            **{f"kill {kind}": (lambda kind=kind: self._kill(kind)) for kind in KINDS},
            **{f"freeze {kind}": (lambda kind=kind: self._freeze(kind)) for kind in KINDS},
            **{f"stop {kind}": (lambda kind=kind: self._stop(kind)) for kind in KINDS},
            **{f"cut {name}": (lambda name=name: self._cut(name)) for name in servers.proxies},
            **{f"delay {name}": (lambda name=name: self._delay(name)) for name in servers.proxies},
            "silence": self._silence,
            "empty Redis": self._empty_redis,
            "lose wake-ups": self._lose_wakeups,
            "double wake-ups": self._double_wakeups,
            "fill a queue": self._fill_a_queue,
        }
        self._heavy: dict[str, Blow] = {
            "kill PostgreSQL": lambda: self._replace(servers.postgres),
            "kill Redis": lambda: self._replace(servers.redis),
            "restart RabbitMQ": lambda: asyncio.to_thread(servers.rabbit.restart),
            **{f"freeze {name}": (lambda name=name: self._freeze_service(name)) for name in servers.proxies},
            **{f"vanish {name}": (lambda name=name: self._vanish(name)) for name in servers.proxies},
        }
        self._wanted = wanted
        self.refused = 0  # commands that found a queue full

    async def strike(self, *, heavy: bool, name: str | None = None) -> None:
        """Strike the named blow, or any."""
        choices = self._light | (self._heavy if heavy else {})
        name = name or self._next(choices)
        self.counts[name] += 1
        await choices[name]()

    def _next(self, choices: Iterable[str]) -> str:
        known = sorted(choices)
        if not self._wanted:
            self._wanted += self._chance.sample(known, len(known))
        name = self._wanted.pop()
        return name if name in known else self._next(known)

    async def mend(self, processes: dict[str, int]) -> None:
        """Everything there and well again."""
        for proxy in self._servers.proxies.values():
            proxy.delay(0)
            proxy.resume()
            proxy.bury()
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
        self._thaw_later(node.resume, self._frozen_for[kind])

    async def _freeze_service(self, name: str) -> None:
        server: Any = self._server(name)
        server.pause()
        self._thaw_later(server.resume, FAULT_LASTS)

    def _thaw_later(self, resume: Callable[[], None], seconds: float) -> None:
        async def thaw() -> None:
            await asyncio.sleep(seconds)
            resume()

        task = asyncio.create_task(thaw())
        self._thawing.add(task)
        task.add_done_callback(self._thawing.discard)

    def _server(self, name: str) -> PostgresServer | RabbitServer | RedisServer:
        servers = self._servers
        return {"PostgreSQL": servers.postgres, "RabbitMQ": servers.rabbit, "Redis": servers.redis}[name]

    async def _vanish(self, name: str) -> None:
        """Both ends of every connection believe in it, and nothing passes: a machine went away without a word."""
        self._servers.proxies[name].vanish()

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
        async def purge(channel: Any) -> None:
            await (await channel.get_queue(topology.WORKER_QUEUE)).purge()

        await self._at_the_broker(purge)

    async def _double_wakeups(self) -> None:
        """Wake every run that is not over once more, whatever it is doing."""
        rows = await self._rows("SELECT session_id, id, leg FROM runs WHERE ended_at IS NULL LIMIT 50")

        async def send(channel: Any) -> None:
            exchange = await channel.get_exchange(topology.WORKER_EXCHANGE)
            for row in rows:
                message = wakeup_message(row["session_id"], row["id"], row["leg"])
                await exchange.publish(message, topology.WORKER_QUEUE)

        await self._at_the_broker(send)

    async def _fill_a_queue(self) -> None:
        """Commands that come too late, more than the queue of a working session takes: the broker refuses the rest."""
        rows = await self._rows("SELECT id FROM sessions WHERE status <> 'deleted' LIMIT 50")
        if not rows:
            return
        busy = self._chance.choice([row["id"] for row in rows])
        late = CancelRun(session_id=busy, user_id="nobody", run_id="none", not_after=datetime.now(UTC) - HOUR)
        body = encode_command(late)

        async def send(channel: Any) -> None:
            exchange = await channel.get_exchange(topology.SESSION_EXCHANGE)
            sending = [exchange.publish(Message(body), topology.partition_key(busy)) for _ in range(BURST)]
            results = await asyncio.gather(*sending, return_exceptions=True)
            self.refused += sum(isinstance(result, DeliveryError) for result in results)

        await self._at_the_broker(send)

    async def _rows(self, statement: str) -> list[dict[str, Any]]:
        with suppress(Exception):  # no database: then there is nothing to be done to its runs
            return await self._callboard.query(statement)
        return []

    async def _at_the_broker(self, work: Callable[[Any], Awaitable[None]]) -> None:
        with suppress(Exception):  # no queue, or no broker: then there is nothing to do to it
            async with asyncio.timeout(10), await aio_pika.connect(self._callboard.urls.amqp) as connection:
                await work(await connection.channel())

    async def _replace(self, server: Any) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(self._chance.random() * 3)
        await asyncio.to_thread(server.start)
