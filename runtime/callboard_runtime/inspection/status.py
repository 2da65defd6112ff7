"""The system at a glance, and what is wrong with it in words."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from typing import TypeVar

from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.broker import topology
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import CallboardError
from callboard_runtime.inspection.broker import Queues, look_at_queues
from callboard_runtime.inspection.processes import processes_and_backlog
from callboard_runtime.inspection.views import ProcessLine, Service, Status

PATIENCE = 8.0  # seconds for each service
NEEDED = {"http": "requests are not answered", "actors": "nothing is accepted", "worker": "accepted runs wait"}

T = TypeVar("T")


async def get_status(
    engine: AsyncEngine, amqp_url: str, redis: Awaitable[object] | None, silent_after: float
) -> Status:
    """Ask every service at once; `redis` is a ping, or None where there is no Redis. Never raises for an outage."""
    database, broker, cache = await asyncio.gather(
        _asked(processes_and_backlog(engine, silent_after)),
        _asked(look_at_queues(amqp_url)),
        _asked(redis) if redis is not None else _nothing(),
    )
    processes, backlog = database if not isinstance(database, str) else (None, None)
    queues = broker if isinstance(broker, Queues) else None
    services = (
        _service("database", database),
        _service("broker", broker),
        *([_service("redis", cache)] if redis is not None else []),
    )
    return Status(
        problems=tuple(_problems(services, processes, queues)),
        services=services,
        processes=processes,
        partitions_unserved=queues.unserved if queues else None,
        backlog=backlog,
        queues=queues.depths if queues else None,
    )


async def _nothing() -> None:
    return None


async def _asked(question: Awaitable[T]) -> T | str:
    """The answer, or why there is none."""
    try:
        async with asyncio.timeout(PATIENCE):
            return await question
    except TimeoutError:
        return f"no answer within {PATIENCE:g} s"
    except CallboardError as error:
        return error.message
    except Exception as error:  # noqa: BLE001 - whatever it is, the others' answers are still worth showing
        return f"cannot be asked ({type(error).__name__})"


def _service(name: str, answer: object) -> Service:
    failed = isinstance(answer, str)
    return Service(name=name, reachable=not failed, problem=str(answer) if failed else None)


def _problems(
    services: Sequence[Service], processes: Sequence[ProcessLine] | None, queues: Queues | None
) -> Iterator[str]:
    for service in services:
        if service.problem:
            yield f"{service.name}: {service.problem}"
    if processes is not None:
        yield from _missing(processes)
    if queues is not None:
        yield from _waiting(queues)


def _missing(processes: Sequence[ProcessLine]) -> Iterator[str]:
    alive = {process.kind for process in processes if process.alive}
    for kind, meaning in NEEDED.items():
        if kind not in alive:
            yield f"no {kind} process is alive, so {meaning}: start `callboard {kind}`"


def _waiting(queues: Queues) -> Iterator[str]:
    if queues.unserved:
        shown = ", ".join(map(str, queues.unserved[:8])) + ("…" if len(queues.unserved) > 8 else "")
        yield f"{len(queues.unserved)} of {PARTITIONS} partitions have no consumer ({shown}): start `callboard actors`"
    for depth in queues.depths:
        if depth.name == topology.DEAD_QUEUE and depth.messages:
            yield f"{depth.messages} dead letters: `callboard dlq list` shows them"
