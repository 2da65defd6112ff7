"""Commands through RabbitMQ with their replies: to real actors, and to one that answers at once and does nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import timedelta

import uvloop

from benchmarks import meter
from benchmarks.meter import Groups
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.workloads.actor_commits import accept
from benchmarks.world import World, say
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import Unavailable
from callboard_runtime.load.stats import spread

TIMEOUT = 60.0  # seconds


WAYS = {"plain": "nothing done, plain consumer", "joined": "nothing done, actors' own I/O"}
"""How the actor that does nothing reads and writes."""


def run(world: World, sizes: Sizes) -> Result:
    with world.stack(actors=1) as stack:
        to = {"AcceptRun, committed": (stack.amqp, stack.groups)}
        for way, name in WAYS.items():
            vhost = world.rabbit.create_vhost()
            _, server = world.metered("echo_actor", vhost, way)
            to[name] = vhost, {"actors": server["server"], "RabbitMQ": [world.rabbit.pid]}
        rows = [
            _measured(name, amqp, groups, at_once, count)
            for at_once, count in sizes.commands.items()
            for name, (amqp, groups) in to.items()
        ]
    tables = (
        Table("Commands and replies through RabbitMQ", tuple(rows)),
        Table("An empty request and reply against a committed AcceptRun", tuple(_ratios(rows, list(sizes.commands)))),
    )
    return Result("commands", tables, NOTES)


NOTES = (
    "One client, one actor process. All rows send the same AcceptRun, each of a session of its own, with the same "
    "client, as many at once: persistent, mandatory, confirmed, to a quorum queue with a single active consumer. All "
    "are answered with a RunAnswer, transient, to the client's own queue. Only the first is decided and committed.",
    "The plain consumer writes every answer and every acknowledgement by itself; the other joins those of one turn of "
    "its event loop with the code of the actors, so that nothing but the work on the command is left between the two.",
    "Ratios above 0.7 are the aim, for 500 sessions. The one of the processor's time is that of client, actor and "
    "services together, which is what a machine that they share is out of first, and varies less with its other load.",
)


def _measured(name: str, amqp: str, groups: Groups, at_once: int, count: int) -> Row:
    say(f"commands: {name}, {at_once} at once")
    return uvloop.run(_send(amqp, name, at_once, count, groups))


def _ratios(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[Row]:
    """By how much the committed ones fall behind: 1 is no slower, no dearer."""
    for at_once in sizes:
        ours, *others = [row for row in rows if row["at once"] == at_once]
        for other in others:
            yield {
                "against": other["what"],
                "at once": at_once,
                "commands/s": _figure(ours, "commands/s") / _figure(other, "commands/s"),
                "processor time": _figure(other, "CPU us, all") / _figure(ours, "CPU us, all"),
            }


def _figure(row: Row, column: str) -> float:
    value = row[column]
    assert isinstance(value, int | float)
    return value


async def _until_served(client: CommandClient) -> None:
    """Wait until somebody consumes: processes beat before they own anything."""
    deadline = time.monotonic() + TIMEOUT
    while True:
        try:
            await client.send(accept("warm-up", uuid.uuid4().hex), TIMEOUT)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(0.2)
        else:
            return


async def _send(amqp: str, name: str, at_once: int, count: int, groups: Groups) -> Row:
    client = await CommandClient.connect(amqp, "bench")
    latencies: list[float] = []
    left = itertools.count(1)

    async def sender() -> None:
        while next(left) <= count:
            thread = uuid.uuid4().hex
            command = accept(thread, f"run-{thread}").but(not_after=utcnow() + timedelta(seconds=TIMEOUT))
            began = time.perf_counter()
            await client.send(command, TIMEOUT)
            latencies.append(time.perf_counter() - began)

    await _until_served(client)
    before, own, began = meter.read(groups), time.process_time(), time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(at_once)))
    elapsed = time.perf_counter() - began
    used = {"client": time.process_time() - own, **meter.cpu_since(groups, before)}
    await client.close()
    found = spread(latencies)
    assert found is not None
    return {
        "what": name,
        "at once": at_once,
        "commands/s": count / elapsed,
        "p50 ms": 1000 * found.p50,
        "p95 ms": 1000 * found.p95,
        "p99 ms": 1000 * found.p99,
        **{f"{group} CPU us": 1e6 * seconds / count for group, seconds in used.items()},
        "CPU us, all": 1e6 * sum(used.values()) / count,
    }
