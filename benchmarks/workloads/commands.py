"""Commands through RabbitMQ with their replies: to real actors, and to one that answers at once and does nothing."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
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


def run(world: World, sizes: Sizes) -> Result:
    rows: list[Row] = []
    with world.stack(actors=1) as stack:
        for at_once, count in sizes.commands.items():
            say(f"commands: to actors, {at_once} at once")
            rows.append(uvloop.run(_send(stack.amqp, "AcceptRun, committed", at_once, count, stack.groups)))
    vhost = world.rabbit.create_vhost()
    _, server = world.metered("echo_actor", vhost)
    groups = {"actors": server["server"], "RabbitMQ": [world.rabbit.pid]}
    for at_once, count in sizes.commands.items():
        say(f"commands: to nobody, {at_once} at once")
        rows.append(uvloop.run(_send(vhost, "answered at once, nothing done", at_once, count, groups)))
    notes = (
        "One client, one actor process. Every command is published persistent and confirmed to a quorum queue with a "
        "single active consumer, and answered to the client's own queue.",
    )
    return Result("commands", (Table("Commands and replies through RabbitMQ", tuple(rows)),), notes)


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
    before, began = meter.read(groups), time.perf_counter()
    await asyncio.gather(*(sender() for _ in range(at_once)))
    elapsed = time.perf_counter() - began
    used = meter.cpu_since(groups, before)
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
    }
