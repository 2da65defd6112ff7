"""The metrics of this process, by Prometheus' own client: declared here and beside the parts that count.

Labels have few values: kinds, outcomes, codes, the operator's models and tools; never a user, a session or a run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import QueuePool

from callboard_runtime.persistence.heartbeats import Heartbeat

On = Literal["all", "http", "actors", "worker"]

REGISTRY = CollectorRegistry(auto_describe=False)
ProcessCollector(registry=REGISTRY)

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)  # seconds
SLOW = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 30, 60, 120, 300)  # seconds


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric as a dashboard names it, and which processes have it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...]
    on: On


CATALOGUE: dict[str, Metric] = {}
"""Every metric that the imported modules declare, by name."""


def declare(kind: Literal["counter", "gauge", "histogram"], name: str, text: str, labels: Sequence[str], on: On) -> str:
    """Note a metric in the catalogue; returns its name."""
    CATALOGUE[name] = Metric(name, kind, text, tuple(labels), on)
    return name


def counter(name: str, text: str, *labels: str, on: On) -> Counter:
    return Counter(declare("counter", name, text, labels, on), text, labels, registry=REGISTRY)


def gauge(name: str, text: str, *labels: str, on: On) -> Gauge:
    return Gauge(declare("gauge", name, text, labels, on), text, labels, registry=REGISTRY)


def histogram(name: str, text: str, *labels: str, on: On, buckets: Sequence[float] = QUICK) -> Histogram:
    return Histogram(declare("histogram", name, text, labels, on), text, labels, buckets=buckets, registry=REGISTRY)


class Bounded:
    """Lets so many different values of a label through; what comes later is `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, value: str) -> str:
        if value in self._known:
            return value
        if len(self._known) >= self._most:
            return "other"
        self._known.add(value)
        return value


COMMAND_SECONDS = histogram(
    "callboard_command_seconds", "From sending a command to its actor's reply.", "command", on="all"
)
COMMANDS_UNANSWERED = counter(
    "callboard_commands_unanswered_total",
    "Commands without a reply in time, or refused by the broker.",
    "command",
    on="all",
)
LANE_DROPPED = counter(
    "callboard_lane_messages_dropped_total", "Live batches dropped; readers find them in the log.", on="all"
)
DATABASE_CONNECTIONS = gauge(
    "callboard_database_connections",
    "Connections of the pool that are `in_use`, `idle`, or allowed (`limit`).",
    "state",
    on="all",
)
HEARTBEAT_AGE = gauge("callboard_heartbeat_age_seconds", "Since the database last heard of this process.", on="all")
READY = gauge("callboard_ready", "Whether the process answers /readyz with 200: 1 or 0.", on="all")


def watch_engine(engine: AsyncEngine) -> None:
    """Show how much of the engine's pool is used."""
    pool = engine.pool
    if not isinstance(pool, QueuePool):
        return
    DATABASE_CONNECTIONS.labels("in_use").set_function(pool.checkedout)
    DATABASE_CONNECTIONS.labels("idle").set_function(pool.checkedin)
    DATABASE_CONNECTIONS.labels("limit").set_function(pool.size)


def watch_heartbeat(heartbeat: Heartbeat) -> None:
    """Show how old the last heartbeat is."""
    HEARTBEAT_AGE.set_function(heartbeat.age)


def render(registry: CollectorRegistry = REGISTRY) -> bytes:
    """The metrics in Prometheus' text form."""
    return generate_latest(registry)
