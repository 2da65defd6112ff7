"""One group of decided commands becomes one transaction: fence, rows, and nothing if either does not hold.

In: the decisions of different sessions of one partition. Out: their rows are durable, or an exception says why not.
All rows travel in one statement, a common table expression per table and column set, each fed by one JSON parameter.
"""

# ruff: noqa: S608 - every name in the SQL is one of our own tables or columns, every value is bound

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from callboard_actors.replies import Decided
from callboard_actors.writes import KEYS, OutboxItem, Row, Writes, messages_added, session_row, write
from callboard_runtime.domain.events import RunAccepted, SessionOpened
from callboard_runtime.errors import FencedOut
from callboard_runtime.observe.tracing import NO_SPAN, Span
from callboard_runtime.persistence.database import dump_json, transaction

_QUIET = frozenset({"outbox", "run_steps", "llm_calls"})
"""Tables where a row that is there already is the same row: a wake-up of the same leg, a step of the same epoch."""


class RunIdTaken(Exception):
    """A run of the group was accepted for another session in the meantime: look again, session by session."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A decided command and the state_version that it was decided on; 0 for a session that is not stored yet."""

    decided: Decided
    version: int
    trace: Span = field(default=NO_SPAN, compare=False)  # of the command, which its consequences go on with


async def commit(
    engine: AsyncEngine, partition: int, partition_epoch: int, group: Sequence[Versioned], *, announce: bool = True
) -> list[OutboxItem]:
    """Write the group, with what integrations are told of it; returns the outbox rows written.

    Raises FencedOut when the partition or one of the sessions has another writer, RunIdTaken when a run id is
    another session's, Unavailable when the database is away (then nobody knows whether the group was written).
    """
    writes = rows_of(group, announce=announce)
    statement = Statement(writes, partition, partition_epoch)
    async with transaction(engine) as connection:
        await _execute(connection, statement, writes)
    return writes.outbox


def rows_of(group: Sequence[Versioned], *, announce: bool = True) -> Writes:
    """The rows of a group, ready to be written; raises RunIdTaken when two of its sessions accept one run id."""
    accepted = [event.run.run_id for v in group for event in v.decided.events if isinstance(event, RunAccepted)]
    if len(set(accepted)) < len(accepted):
        raise RunIdTaken
    writes = Writes()
    for versioned in group:
        write(writes, versioned.decided, announce=announce, trace=versioned.trace.traceparent)
        _write_session(writes, versioned)
    return writes


def _write_session(writes: Writes, versioned: Versioned) -> None:
    decided, session_id = versioned.decided, versioned.decided.command.session_id
    said, changed = messages_added(decided.events), decided.before.status != decided.after.status
    row = session_row(decided.after, decided.facts.now, said=said, changed=changed or versioned.version == 0)
    if versioned.version == 0:
        titles = [event.title for event in decided.events if isinstance(event, SessionOpened)]
        writes.insert("sessions", {"id": session_id, "state_version": 1, "title": titles[0] if titles else None, **row})
    else:
        writes.update("sessions", {"id": session_id, "state_version": versioned.version + 1, **row})
    if session_id in writes.deleted:
        writes.update("sessions", {"id": session_id, "deleted_at": decided.facts.now, "title": None})


async def _execute(connection: AsyncConnection, statement: Statement, writes: Writes) -> None:
    result = await connection.exec_driver_sql(statement.text, tuple(statement.parameters))
    counts = dict(result.mappings().one())
    if not counts["fence"]:
        raise FencedOut("another process owns this partition now")
    if counts["sessions"] != len(writes.inserts.get("sessions", ())) + len(writes.updates.get("sessions", ())):
        raise FencedOut("a session was written by another process")
    if counts["runs"] != len(writes.inserts.get("runs", ())):
        raise RunIdTaken


class Statement:
    """The SQL of one group and its parameters; groups of one shape have one text, which stays prepared."""

    def __init__(self, writes: Writes, partition: int, partition_epoch: int) -> None:
        self.parameters: list[object] = [partition, partition_epoch]
        fence = "fence AS (SELECT 1 FROM partitions WHERE partition = $1 AND partition_epoch = $2 FOR SHARE)"
        self._parts: list[str] = [fence]
        self._counted: dict[str, list[str]] = {"sessions": [], "runs": []}
        for table in KEYS:
            self._insert(table, list(writes.inserts.get(table, {}).values()))
            self._update(table, list(writes.updates.get(table, {}).values()))
        self._others(writes)
        self.text = f"WITH {', '.join(self._parts)} SELECT {self._counts()}"

    def _insert(self, table: str, rows: list[Row]) -> None:
        for columns, same in _by_columns(rows):
            names = ", ".join(f'"{column}"' for column in columns)
            conflict = "ON CONFLICT DO NOTHING" if table in _QUIET | {"sessions", "runs"} else ""
            source = f"SELECT {names} FROM json_populate_recordset(NULL::{table}, {self._bind(dump_json(same))}::json)"
            name = self._add(f"INSERT INTO {table} ({names}) {source} {conflict} RETURNING 1")
            if table in self._counted:
                self._counted[table].append(name)

    def _update(self, table: str, rows: list[Row]) -> None:
        for columns, same in _by_columns(rows):
            keys = KEYS[table]
            changes = ", ".join(_assignment(table, column) for column in columns if column not in keys)
            match = " AND ".join([f't."{key}" = v."{key}"' for key in keys] + _guards(table))
            source = f"json_populate_recordset(NULL::{table}, {self._bind(dump_json(same))}::json) v"
            name = self._add(f"UPDATE {table} t SET {changes} FROM {source} WHERE {match} RETURNING 1")
            if table == "sessions":
                self._counted[table].append(name)

    def _others(self, writes: Writes) -> None:
        if writes.claimed:
            runs = self._ids(writes.claimed)
            self._add(f"DELETE FROM outbox WHERE kind = 'wakeup' AND run_id = ANY({runs}) RETURNING 1")
        if writes.withdrawn:
            runs = self._ids(writes.withdrawn)
            self._add(f"UPDATE messages SET withdrawn = true WHERE run_id = ANY({runs}) RETURNING 1")
        if writes.deleted:
            sessions = self._ids(writes.deleted)
            for table in ("messages", "runs", "event_segments"):
                self._add(f"DELETE FROM {table} WHERE session_id = ANY({sessions}) RETURNING 1")
            self._add(f"DELETE FROM outbox WHERE kind = 'wakeup' AND session_id = ANY({sessions}) RETURNING 1")

    def _counts(self) -> str:
        fence = ["(SELECT count(*) FROM fence) AS fence"]
        return ", ".join(fence + [f"{_sum(names)} AS {table}" for table, names in self._counted.items()])

    def _add(self, sql: str) -> str:
        name = f"w{len(self._parts)}"
        self._parts.append(f"{name} AS ({sql})")
        return name

    def _ids(self, ids: list[UUID]) -> str:
        return f"{self._bind(ids)}::uuid[]"

    def _bind(self, value: object) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"


def _by_columns(rows: list[Row]) -> list[tuple[tuple[str, ...], list[Row]]]:
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(sorted(row)), []).append(row)
    return sorted(groups.items(), key=lambda group: group[0])


def _assignment(table: str, column: str) -> str:
    """Some columns keep their first, or their last known, value."""
    if (table, column) in (("runs", "started_at"), ("run_legs", "first_epoch")):
        return f'"{column}" = COALESCE(t."{column}", v."{column}")'
    if (table, column) in (("sessions", "last_message_at"), ("sessions", "updated_at")):
        return f'"{column}" = COALESCE(v."{column}", t."{column}")'
    return f'"{column}" = v."{column}"'


def _guards(table: str) -> list[str]:
    """An ended run never changes; a session changes only from the version that was decided on."""
    if table == "sessions":
        return ["t.state_version = v.state_version - 1"]
    return ["t.ended_at IS NULL"] if table == "runs" else []


def _sum(names: list[str]) -> str:
    return " + ".join(f"(SELECT count(*) FROM {name})" for name in names) or "0"
