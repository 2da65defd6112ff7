"""What the actors count: commands, commits, epochs, the lives of runs, and what is looked up when somebody asks.

In:  settled commands, committed groups; the process's parts and the database, at a scrape
Out: metrics
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.commit import Versioned
from callboard_runtime.domain import events as e
from callboard_runtime.observe.metrics import Bounded, counter, gauge, histogram
from callboard_runtime.persistence.database import connect

COMMANDS = counter(
    "callboard_actors_commands_total",
    "Commands that were answered, refused or set aside.",
    "command",
    "outcome",
    on="actors",
)
COMMIT_SECONDS = histogram("callboard_actors_commit_seconds", "Commits of groups of commands.", on="actors")
COMMIT_COMMANDS = histogram(
    "callboard_actors_commit_commands",
    "Commands that changed something, per commit.",
    on="actors",
    buckets=(0, 1, 2, 4, 8, 16, 32, 64, 128),
)
COMMIT_FAILURES = counter(
    "callboard_actors_commit_failures_total", "Commits that failed, by error.", "error", on="actors"
)
PARTITION_TAKES = counter("callboard_actors_partition_takes_total", "Partitions taken in the database.", on="actors")
EPOCHS = counter(
    "callboard_actors_epochs_total",
    "Session epochs taken: by an `attempt`, or by the `actor` to end one.",
    "taker",
    on="actors",
)
RUNS_ACCEPTED = counter("callboard_runs_accepted_total", "Runs that became durable.", on="actors")
RUNS_PAUSED = counter("callboard_runs_paused_total", "Legs that ended waiting for tool calls.", on="actors")
RUNS_RESUMED = counter("callboard_runs_resumed_total", "Legs that were opened by answers.", on="actors")
RUNS_ENDED = counter(
    "callboard_runs_ended_total", "Runs that ended; `code` is empty without an error.", "status", "code", on="actors"
)
ATTEMPTS_ENDED = counter("callboard_attempts_ended_total", "Attempts that ended.", "outcome", on="actors")
TOOL_ANSWERS = counter("callboard_tool_answers_total", "Pending tool calls that were settled.", "status", on="actors")
OUTBOX_SENT = counter("callboard_outbox_sent_total", "Outbox rows sent.", "kind", on="actors")
WEBHOOK_ATTEMPTS = counter(
    "callboard_webhook_attempts_total",
    "Requests to webhooks, by what came of them.",
    "outcome",
    on="actors",
)

OWNED = gauge(
    "callboard_actors_owned_partitions", "Partitions of this process; one is taken when a command arrives.", on="actors"
)
WAITING = gauge("callboard_actors_waiting_commands", "Commands in the mailboxes of this process.", on="actors")
WAKEUPS_WAITING = gauge(
    "callboard_actors_waiting_wakeups", "Wake-ups that this process holds until slots are free.", on="actors"
)
DEAD_LETTERS = gauge("callboard_dead_letters", "Messages in the dead-letter queue, as last counted.", on="actors")
OUTBOX_ROWS = gauge(
    "callboard_outbox_rows", "Outbox rows of all partitions; the same from every process.", "kind", on="actors"
)
OUTBOX_AGE = gauge(
    "callboard_outbox_oldest_seconds", "Age of the oldest outbox row; the same from every process.", "kind", on="actors"
)
WEBHOOKS_OPEN = gauge(
    "callboard_webhooks_open", "Deliveries to webhooks that have not ended; the same from every process.", on="actors"
)
WEBHOOKS_AGE = gauge(
    "callboard_webhooks_oldest_seconds", "Age of the oldest of these; the same from every process.", on="actors"
)
RUNS_OPEN = gauge(
    "callboard_runs_open", "Runs that have not ended; the same from every process.", "status", on="actors"
)

LOOK_EVERY = 5.0  # seconds between two looks at the database, however often somebody asks
KINDS = ("wakeup", "events", "control", "integration")
OPEN = ("queued", "running", "awaiting_input", "cancelling")

_code = Bounded(100)
_children: dict[tuple[str, str], Any] = {}


def command_settled(command: str, outcome: str) -> None:
    """Count a command: `answered`, `refused` or `dead_letter`."""
    child = _children.get((command, outcome))
    if child is None:
        child = _children[command, outcome] = COMMANDS.labels(command, outcome)
    child.inc()


def group_committed(group: Sequence[Versioned], seconds: float) -> None:
    """Count a committed group, and what its events say."""
    COMMIT_SECONDS.observe(seconds)
    COMMIT_COMMANDS.observe(len(group))
    for versioned in group:
        for event in versioned.decided.events:
            count = _COUNTED.get(type(event))
            if count is not None:
                count(event)


def _leg_opened(event: e.LegOpened) -> None:
    if event.deadline is not None:  # else nobody is to start it: it only holds the end of a paused run
        RUNS_RESUMED.inc()


_COUNTED: dict[type, Callable[[Any], None]] = {
    e.RunAccepted: lambda _: RUNS_ACCEPTED.inc(),
    e.LegOpened: _leg_opened,
    e.ToolsRequested: lambda _: RUNS_PAUSED.inc(),
    e.AttemptStarted: lambda _: EPOCHS.labels("attempt").inc(),
    e.EpochTaken: lambda _: EPOCHS.labels("actor").inc(),
    e.AttemptEnded: lambda event: ATTEMPTS_ENDED.labels(event.outcome).inc(),
    e.ToolCallSettled: lambda event: TOOL_ANSWERS.labels(event.call.status).inc(),
    e.RunEnded: lambda event: RUNS_ENDED.labels(event.status, _code(event.error_code or "")).inc(),
}


class DatabaseLook:
    """What only the database knows: rows of the outbox and open runs. For one event loop."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._next = 0.0

    async def __call__(self) -> None:
        """Look again, unless that was a moment ago. Raises Unavailable."""
        now = asyncio.get_running_loop().time()
        if now < self._next:
            return
        async with connect(self._engine) as connection:
            outbox = {row.kind: row for row in await connection.execute(_OUTBOX)}
            runs = {row.status: row.runs for row in await connection.execute(_RUNS, {"open": list(OPEN)})}
            webhooks = (await connection.execute(_WEBHOOKS)).one()
        self._next = now + LOOK_EVERY
        WEBHOOKS_OPEN.set(webhooks.rows)
        WEBHOOKS_AGE.set(webhooks.age)
        for kind in _all(KINDS, outbox):
            row = outbox.get(kind)
            OUTBOX_ROWS.labels(kind).set(row.rows if row else 0)
            OUTBOX_AGE.labels(kind).set(row.age if row else 0)
        for status in OPEN:
            RUNS_OPEN.labels(status).set(runs.get(status, 0))


def _all(known: Iterable[str], found: Iterable[str]) -> list[str]:
    return list(dict.fromkeys([*known, *found]))


_OUTBOX = text(
    """SELECT kind, count(*) AS rows, extract(epoch FROM now() - min(created_at))::float8 AS age
       FROM outbox GROUP BY kind"""
)
_WEBHOOKS = text(
    """SELECT count(*) AS rows, coalesce(extract(epoch FROM now() - min(created_at)), 0)::float8 AS age
       FROM webhook_deliveries WHERE delivered_at IS NULL AND given_up_at IS NULL"""
)
_RUNS = text("SELECT status, count(*) AS runs FROM runs WHERE status = ANY(:open) GROUP BY status")
