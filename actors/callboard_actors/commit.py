"""One group of decided commands becomes one transaction: fences, rows, and nothing if any of them does not hold.

In: the decisions of different sessions, of any partitions of this process. Out: their rows are durable, or an
exception says why not. All travels in one statement, a common table expression per table and column set, each fed by
one JSON parameter; a fence that does not hold makes that statement fail, and with it everything it wrote.
"""

# ruff: noqa: S608 - every name in the SQL is one of our own tables or columns, every value is bound

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import asyncpg
import orjson

from callboard_actors import retention
from callboard_actors.connections import Connections
from callboard_actors.hooks import NO_HOOKS, Hooks
from callboard_actors.replies import Decided
from callboard_actors.writes import KEYS, OutboxItem, Row, Writes, messages_added, session_row, write
from callboard_runtime.domain.events import RunAccepted, SessionOpened
from callboard_runtime.domain.ids import partition_of
from callboard_runtime.errors import FencedOut
from callboard_runtime.observe.tracing import NO_SPAN, Span
from callboard_runtime.persistence.database import dump_json

Fences = Mapping[int, int]
"""partition -> the partition_epoch under which this process owns it."""

_QUIET = frozenset({"outbox", "webhook_deliveries", "pinned_configs", "run_steps", "llm_calls"})
"""Tables where a row that is there already is the same row: a wake-up of the same leg, a step of the same epoch."""

_FENCE = """fence AS (SELECT p.partition FROM unnest($1::bigint[], $2::bigint[]) AS f (partition, epoch)
JOIN partitions p ON p.partition = f.partition AND p.partition_epoch = f.epoch FOR SHARE OF p)"""

_REFUSED = "CB001"
"""The SQLSTATE that the database's function `callboard_refuse` raises."""


class PartitionsLost(FencedOut):
    """Some of the group's partitions, or sessions in them, have another writer; nothing of the group was written."""

    def __init__(self, partitions: frozenset[int], why: str) -> None:
        super().__init__(why)
        self.partitions = partitions


class RunIdTaken(Exception):
    """A run of the group was accepted for another session in the meantime: look again, session by session."""


@dataclass(frozen=True, slots=True)
class Versioned:
    """A decided command and the state_version that it was decided on; 0 for a session that is not stored yet."""

    decided: Decided
    version: int
    trace: Span = field(default=NO_SPAN, compare=False)  # of the command, which its consequences go on with


async def commit(
    connections: Connections,
    fences: Fences,
    group: Sequence[Versioned],
    *,
    announce: bool = True,
    hooks: Hooks = NO_HOOKS,
) -> list[OutboxItem]:
    """Write the group, with what integrations and webhooks are told of it; returns the outbox rows written.

    `fences` names every partition of the group, and those that only want to know whether they are still ours. Raises
    PartitionsLost when one of them or one of the sessions has another writer, RunIdTaken when a run id is another
    session's, Unavailable when the database is away (then nobody knows whether the group was written).
    """
    writes = rows_of(group, announce=announce, hooks=hooks)
    statement = Statement(writes, fences)
    try:
        await connections.fetch(statement.text, *statement.parameters)
    except asyncpg.PostgresError as error:
        if getattr(error, "sqlstate", None) != _REFUSED:
            raise
        raise _refusal(orjson.loads(str(error)), fences, writes) from None
    return writes.outbox


def _refusal(found: Mapping[str, list[object] | None], fences: Fences, writes: Writes) -> Exception:
    """Which of the fences did not hold."""
    gone = fences.keys() - set(found["fence"] or ())
    if gone:
        return PartitionsLost(frozenset(gone), "another process owns this partition now")
    written = set(found["sessions"] or ())
    expected = {key[0] for rows in (writes.inserts, writes.updates) for key in rows.get("sessions", ())}
    missed = frozenset(partition_of(session_id) for session_id in expected if str(session_id) not in written)
    return PartitionsLost(missed, "a session was written by another process") if missed else RunIdTaken()


def rows_of(group: Sequence[Versioned], *, announce: bool = True, hooks: Hooks = NO_HOOKS) -> Writes:
    """The rows of a group, ready to be written; raises RunIdTaken when two of its sessions accept one run id."""
    accepted = [event.run.run_id for v in group for event in v.decided.events if isinstance(event, RunAccepted)]
    if len(set(accepted)) < len(accepted):
        raise RunIdTaken
    writes = Writes()
    for versioned in group:
        write(writes, versioned.decided, announce=announce, hooks=hooks, trace=versioned.trace.traceparent)
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


class Statement:
    """The SQL of one group and its parameters; groups of one shape have one text, which stays prepared."""

    def __init__(self, writes: Writes, fences: Fences) -> None:
        self.parameters: list[object] = [list(fences), list(fences.values())]
        self._parts: list[str] = [_FENCE]
        self._counted: dict[str, list[str]] = {"sessions": [], "runs": []}
        for table in KEYS:
            self._insert(table, list(writes.inserts.get(table, {}).values()))
            self._update(table, list(writes.updates.get(table, {}).values()))
        self._others(writes)
        sessions = len(writes.inserts.get("sessions", ())) + len(writes.updates.get("sessions", ()))
        self.text = f"WITH {', '.join(self._parts)} {self._verdict(sessions, len(writes.inserts.get('runs', ())))}"

    def _insert(self, table: str, rows: list[Row]) -> None:
        for columns, same in _by_columns(rows):
            names = ", ".join(f'"{column}"' for column in columns)
            conflict = "ON CONFLICT DO NOTHING" if table in _QUIET | {"sessions", "runs"} else ""
            source = f"SELECT {names} FROM json_populate_recordset(NULL::{table}, {self._bind(dump_json(same))}::json)"
            self._add(f"INSERT INTO {table} ({names}) {source} {conflict}", counts=table)

    def _update(self, table: str, rows: list[Row]) -> None:
        for columns, same in _by_columns(rows):
            keys = KEYS[table]
            changes = ", ".join(_assignment(table, column) for column in columns if column not in keys)
            match = " AND ".join([f't."{key}" = v."{key}"' for key in keys] + _guards(table))
            source = f"json_populate_recordset(NULL::{table}, {self._bind(dump_json(same))}::json) v"
            counts = "sessions" if table == "sessions" else None
            self._add(f"UPDATE {table} t SET {changes} FROM {source} WHERE {match}", counts=counts)

    def _others(self, writes: Writes) -> None:
        if writes.claimed:
            runs = self._ids(writes.claimed)
            self._add(f"DELETE FROM outbox WHERE kind = 'wakeup' AND run_id = ANY({runs})")
        if writes.withdrawn:
            runs = self._ids(writes.withdrawn)
            self._add(f"UPDATE messages SET withdrawn = true WHERE run_id = ANY({runs})")
        if writes.deleted:
            sessions = self._ids(writes.deleted)
            for table in ("messages", "runs", "event_segments", "command_claims"):
                self._add(f"DELETE FROM {table} WHERE session_id = ANY({sessions})")
            self._add(f"DELETE FROM outbox WHERE kind = 'wakeup' AND session_id = ANY({sessions})")
            ended = "(delivered_at IS NOT NULL OR given_up_at IS NOT NULL)"
            self._add(f"DELETE FROM webhook_deliveries WHERE {ended} AND session_id = ANY({sessions})")

        for pruned in writes.pruned:
            for sql in retention.statements(pruned, self._bind):
                self._add(sql)

    def _verdict(self, sessions: int, runs: int) -> str:
        """True, or an error that says what was found."""
        found = {"fence": "SELECT partition AS id FROM fence"}
        expected = {"fence": "cardinality($1)"}
        for table, count in (("sessions", sessions), ("runs", runs)):
            if names := self._counted[table]:
                found[table] = " UNION ALL ".join(f"SELECT id FROM {name}" for name in names)
                expected[table] = self._bind(count)
        held = " AND ".join(f"(SELECT count(*) FROM ({found[name]}) c) = {expected[name]}" for name in found)
        told = ", ".join(f"'{name}', (SELECT json_agg(id) FROM ({sql}) c)" for name, sql in found.items())
        return f"SELECT CASE WHEN {held} THEN true ELSE callboard_refuse(json_build_object({told})::text) END"

    def _add(self, sql: str, *, counts: str | None = None) -> None:
        name = f"w{len(self._parts)}"
        returning = ""
        if counts in self._counted:
            self._counted[counts].append(name)
            returning = f" RETURNING {'t.' if sql.startswith('UPDATE') else ''}id"
        self._parts.append(f"{name} AS ({sql}{returning})")

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
