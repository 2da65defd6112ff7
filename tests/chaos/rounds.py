"""One installation and its rounds: clients at work, blows, then every promise checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from callboard_runtime.persistence import migrate
from chaos import witness
from chaos.blows import Blows, Servers
from chaos.checker import PROMISES, Checker
from chaos.load import KINDS, Load
from services import TcpProxy
from services.postgres import Databases
from services.session import Services
from stack import Callboard, Urls, Zygote
from waiting import until

HERE = Path(__file__).parent
SILENT_AFTER = 3.0  # seconds
# Longer than the others wait: two heartbeats of the broker and one look for an actor, `silent_after` for a worker.
FROZEN_FOR = {"actors": 11.0, "worker": SILENT_AFTER + 2, "http": 4.0}
PROCESSES = {"http": 2, "actors": 2, "worker": 2}
SETTINGS = {
    "CALLBOARD_ACTORS__SILENT_AFTER": str(SILENT_AFTER),
    "CALLBOARD_ACTORS__SWEEP": "0.25",
    "CALLBOARD_ACTORS__STANDBY_DELAY": "0.2",
    "CALLBOARD_HTTP__HEARTBEAT": "1",
    "CALLBOARD_RUNS__CANCEL_GRACE": "2",
    "CALLBOARD_RUNS__DEADLINE": "90",
    "CALLBOARD_ACTORS__MAX_MAILBOX": "300",
    "CALLBOARD_LLM__FIRST_TOKEN_TIMEOUT": "2",
    "CALLBOARD_LLM__TIMEOUT": "10",
    "CALLBOARD_LLM__RETRIES": "4",
    "CALLBOARD_LLM__SCRIPTS": str(HERE / "scripts"),
    "CALLBOARD_CONFIG__DIR": str(HERE / "config"),
}


@dataclass
class Result:
    """What a number of rounds came to."""

    seed: int
    turns: int = 0
    accepted: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    blows: Counter[str] = field(default_factory=Counter)
    examined: Counter[int] = field(default_factory=Counter)
    broken: dict[int, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    reconnects: int = 0
    calls: int = 0
    lost: int = 0  # calls that died with their process, as estimates
    refused: int = 0  # commands that found a queue full
    cost: Decimal = Decimal(0)

    def add(self, load: Load, blows: Blows, checker: Checker) -> None:
        self.turns += len(load.turns)
        self.accepted += sum(turn.accepted for turn in load.turns)
        self.statuses.update(row["status"] for row in checker.tables.of("runs"))
        self.blows.update(blows.counts)
        self.examined.update(checker.examined)
        self.reconnects += sum(reader.connections - 1 for turn in load.turns for reader in turn.readers)
        self.calls += len(checker.tables.rows["llm_calls"])
        self.lost += sum(row["status"] == "lost" for row in checker.tables.of("llm_calls"))
        self.refused += blows.refused
        self.cost += checker.cost
        for promise, what in checker.broken.items():
            self.broken.setdefault(promise, []).extend(what)


class Installation:
    """Servers behind proxies, and the Callboard processes on them."""

    def __init__(self, callboard: Callboard, servers: Servers) -> None:
        self.callboard, self.servers = callboard, servers
        self._wanted: list[str] = []  # blows that are still to come, before any comes again

    async def round(
        self,
        seed: int,
        *,
        sessions: int,
        turns: int,
        blows: int,
        heavy: bool,
        result: Result,
        end_within: float = 120.0,
        first: Sequence[str] = (),
        kinds: Sequence[str] = KINDS,
    ) -> None:
        """Load, blows (those of `first` to begin with), mend, check; a run must end within `end_within` seconds."""
        began, chance = time.monotonic(), random.Random(seed)
        await asyncio.to_thread(lambda: self.callboard.ensure(**PROCESSES))
        load = Load(self.callboard, chance, sessions, turns, end_within, kinds)
        striking = Blows(self.callboard, self.servers, random.Random(seed + 1), FROZEN_FOR, self._wanted)
        working, pauses = asyncio.create_task(load.run()), random.Random(seed + 2)
        for number in range(blows):
            await asyncio.sleep(0.2 + pauses.random() * 1.5)  # the seed's own rhythm; nothing is waited for
            if working.done():
                break
            try:
                await striking.strike(heavy=heavy, name=first[number] if number < len(first) else None)
            except TimeoutError as error:  # of a process that was told to end
                result.broken.setdefault(1, []).append(str(error))
        await striking.mend(PROCESSES)
        await working
        await self._at_rest(load, end_within / 3)
        deaths = sessions * sum(times for blow, times in striking.counts.items() if not _spares_workers(blow))
        checker = Checker(self.callboard, load, deaths, SILENT_AFTER)
        await checker.check()
        result.add(load, striking, checker)
        result.seconds += time.monotonic() - began

    async def _at_rest(self, load: Load, bound: float) -> None:
        """Wait, within a bound, until nothing is left to do; what is left then is the checker's."""
        query = """SELECT (SELECT count(*) FROM runs WHERE user_id = $1 AND ended_at IS NULL)
                        + (SELECT count(*) FROM outbox WHERE user_id = $1 AND kind = 'wakeup') AS n"""

        async def nothing_left() -> bool:
            [row] = await self.callboard.query(query, load.user)
            return not row["n"]

        with suppress(TimeoutError):
            await until(nothing_left, timeout=bound)


@asynccontextmanager
async def installation(
    services: Services,
    zygote: Zygote,
    folder: Path,
    *,
    plant: str = "",
    settings: Mapping[str, str] | None = None,
    heartbeat: int = 3,
) -> AsyncIterator[Installation]:
    """A fresh database, virtual host and Redis on servers that may be killed; `heartbeat` of the broker in seconds."""
    for name in ("private_postgres", "private_rabbit", "private_redis"):
        services.begin(name)
    postgres, rabbit, redis = await asyncio.gather(
        asyncio.to_thread(services.private_postgres),
        asyncio.to_thread(services.private_rabbit),
        asyncio.to_thread(services.private_redis),
    )
    database = await asyncio.to_thread(Databases(postgres.url).create)
    await asyncio.to_thread(migrate.upgrade, database)
    await witness.call(database)
    amqp = (await asyncio.to_thread(rabbit.create_vhost)).replace("heartbeat=10", f"heartbeat={heartbeat}")
    direct = Urls(database, amqp, redis.next_database())
    async with AsyncExitStack() as stack:
        proxies = {
            name: await stack.enter_async_context(TcpProxy.for_url(url))
            for name, url in (("PostgreSQL", direct.database), ("RabbitMQ", direct.amqp), ("Redis", direct.redis))
        }
        through = {
            "CALLBOARD_DATABASE_URL": proxies["PostgreSQL"].url(direct.database),
            "CALLBOARD_AMQP_URL": proxies["RabbitMQ"].url(direct.amqp),
            "CALLBOARD_REDIS_URL": proxies["Redis"].url(direct.redis),
        }
        test = {"CALLBOARD_TEST_TOOLS": str(folder), "CALLBOARD_TEST_PLANT": plant}
        with Callboard(direct, folder, zygote, SETTINGS | (settings or {}) | through | test) as callboard:
            yield Installation(callboard, Servers(postgres, rabbit, redis, proxies))


def _spares_workers(blow: str) -> bool:
    """Whether no attempt can be lost by it, so that every begun call is made."""
    return any(part in blow for part in ("http", "delay", "Redis", "fill a queue", "lose wake-ups"))


def table(results: Sequence[Result]) -> object:
    """The promises and what became of them."""
    from rich.table import Table

    shown = Table("#", "promise", "examined", "violations", title=f"{len(results)} runs of the suite")
    for number, name in PROMISES.items():
        examined = sum(result.examined[number] for result in results)
        broken = sum(len(result.broken.get(number, [])) for result in results)
        shown.add_row(str(number), name, str(examined), str(broken), style="red" if broken else None)
    return shown
