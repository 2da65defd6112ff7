"""What the services have counted so far by themselves, and who is connected to them."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import redis

from benchmarks.world import Stack, World

# A backend of PostgreSQL that turns idle tells what it has counted up to ten seconds later.
SETTLE = 10.5  # seconds
ROWS = """
SELECT d.xact_commit AS transactions, d.tup_inserted AS inserted, d.tup_updated AS updated, d.tup_deleted AS deleted,
       w.wal_records, w.wal_bytes
  FROM pg_stat_database d, pg_stat_wal w WHERE d.datname = current_database()
"""
# RabbitMQ keeps these with or without its management plugin.
MESSAGES = """
Of = fun(Key, Name) -> maps:get(Name, maps:get(Key, rabbit_global_counters:overview(), #{}), 0) end,
Delivered = fun(Type) -> Of([{protocol, amqp091}, {queue_type, Type}], messages_delivered_total) end,
[{published, Of([{protocol, amqp091}], messages_received_total)},
 {quorum, Delivered(rabbit_quorum_queue)}, {classic, Delivered(rabbit_classic_queue)}].
"""
NAMES = {
    "transactions": "PostgreSQL: transactions, reading ones included",
    "inserted": "PostgreSQL: rows inserted",
    "updated": "PostgreSQL: rows updated",
    "deleted": "PostgreSQL: rows deleted",
    "wal_records": "PostgreSQL: WAL records",
    "wal_bytes": "PostgreSQL: WAL bytes",
    "published": "RabbitMQ: messages published",
    "quorum": "RabbitMQ: delivered from quorum queues (commands, wake-ups)",
    "classic": "RabbitMQ: delivered from classic queues (replies, live batches)",
    "total_commands_processed": "Redis: commands, those of scripts included",
    "total_net_input_bytes": "Redis: bytes received",
}


@dataclass(frozen=True)
class Counts:
    """`values` by the names that `NAMES` explains; `at` in seconds of the monotonic clock."""

    at: float
    values: Mapping[str, float]

    def since(self, before: Counts) -> dict[str, float]:
        return {name: value - before.values[name] for name, value in self.values.items()}


async def read(world: World, stack: Stack) -> Counts:
    """Of PostgreSQL this stack's database, otherwise whole servers: let nothing else be busy on them."""
    [row] = await stack.query(ROWS)
    messages = re.findall(r"\{(\w+), (\d+)\}", world.rabbit.evaluate(" ".join(MESSAGES.split())))
    with redis.Redis.from_url(stack.redis) as client:
        info = client.info("stats")
    found = {**dict(row), **dict(messages), **info}
    return Counts(time.monotonic(), {name: float(found[name]) for name in NAMES})


def connections(world: World, stack: Stack) -> list[Mapping[str, str | int]]:
    """Connections of one process of each kind that runs, by service."""
    ports = {"PostgreSQL": world.postgres.port, "RabbitMQ": world.rabbit.port, "Redis": world.redis.port}
    rows: list[Mapping[str, str | int]] = []
    for kind, children in stack.children.items():
        remote = [each.raddr.port for each in psutil.Process(children[0].pid).net_connections("tcp") if each.raddr]
        rows.append({"process": kind, **{name: remote.count(port) for name, port in ports.items()}})
    return rows
