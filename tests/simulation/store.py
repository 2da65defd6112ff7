"""An in-memory database that keeps the contract of `callboard_actors.commit`: fences, versions, uniqueness.

`tests/simulation/test_store_contract.py` holds it to PostgreSQL, commit by commit.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import UniqueConstraint

from callboard_actors.commit import (
    _QUIET,  # pyright: ignore[reportPrivateUsage]
    Fences,
    PartitionsLost,
    RunIdTaken,
    Versioned,
    rows_of,
)
from callboard_actors.sessions import Held
from callboard_actors.writes import KEYS, OutboxItem, Row, Writes
from callboard_runtime.domain.ids import PARTITIONS, partition_of
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.persistence.tables import Base

Table = dict[tuple[Any, ...], Row]

KEEPS_FIRST = {("runs", "started_at"), ("run_legs", "first_epoch")}
KEEPS_LAST = {("sessions", "last_message_at"), ("sessions", "updated_at")}
_OF_A_RUN = ("run_legs", "run_attempts", "run_steps", "llm_calls")


class IntegrityError(Exception):
    """A row that PostgreSQL would refuse."""


def _unique(table: str) -> list[tuple[str, ...]]:
    constraints = Base.metadata.tables[table].constraints
    return [tuple(c.name for c in item.columns) for item in constraints if isinstance(item, UniqueConstraint)]


UNIQUE = {table: _unique(table) for table in KEYS}


class Tables:
    """The rows, and the one way to change them."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self.rows: dict[str, Table] = {table: {} for table in KEYS}
        self.partitions = dict.fromkeys(range(PARTITIONS), 0)
        self.beats: dict[str, tuple[datetime, tuple[UUID, ...]]] = {}  # process -> its heartbeat
        self.checks_partition = self.checks_version = True
        self.now = now
        self.history: list[tuple[Fences, list[Versioned], str]] = []  # every commit that was tried
        self.on_commit: Callable[[Sequence[Versioned], Writes, frozenset[int]], None] = lambda *_: None
        self._position = itertools.count(1)
        self._unique: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], tuple[Any, ...]]] = {
            (table, columns): {} for table in KEYS for columns in UNIQUE[table]
        }

    def take(self, partition: int) -> int:
        self.partitions[partition] += 1
        self.history.append(({partition: self.partitions[partition]}, [], "taken"))
        return self.partitions[partition]

    def of(self, table: str, **match: object) -> Iterator[Row]:
        """The rows with these values, in the order in which they came."""
        for row in list(self.rows[table].values()):
            if all(row.get(column) == value for column, value in match.items()):
                yield row

    # -- commits -------------------------------------------------------------------------------------------------------

    def commit(self, fences: Fences, group: Sequence[Versioned], *, announce: bool) -> list[OutboxItem]:
        try:
            items = self._commit(fences, group, announce=announce)
        except Exception as error:
            self.history.append((fences, list(group), outcome_of(error)))
            raise
        self.history.append((fences, list(group), "written"))
        return items

    def _commit(self, fences: Fences, group: Sequence[Versioned], *, announce: bool) -> list[OutboxItem]:
        writes = rows_of(group, announce=announce)
        foreign = frozenset(number for number, epoch in fences.items() if self.partitions[number] != epoch)
        if self.checks_partition and foreign:
            raise PartitionsLost(foreign, "another process owns this partition now")
        late = [row["id"] for row in _both(writes, "sessions") if not self._session_as_expected(row)]
        if late:
            raise PartitionsLost(frozenset(map(partition_of, late)), "a session was written by another process")
        if any(self._conflicts("runs", row) for row in writes.inserts.get("runs", {}).values()):
            raise RunIdTaken
        self._check_unique(writes)
        self._apply(writes)
        self.on_commit(group, writes, foreign)
        return writes.outbox

    def _session_as_expected(self, row: Row) -> bool:
        stored = self.rows["sessions"].get((row["id"],))
        if row["state_version"] == 1:
            return stored is None
        return stored is not None and (not self.checks_version or stored["state_version"] == row["state_version"] - 1)

    def _check_unique(self, writes: Writes) -> None:
        for table, rows in writes.inserts.items():
            if table in _QUIET | {"sessions", "runs"}:
                continue
            for row in rows.values():
                if self._conflicts(table, row):
                    raise IntegrityError(f"{table}: {_key(table, row)} is there already")

    def _conflicts(self, table: str, row: Row) -> bool:
        if _key(table, row) in self.rows[table]:
            return True
        return any(_values(row, columns) in self._unique[table, columns] for columns in UNIQUE[table])

    def _apply(self, writes: Writes) -> None:
        """As one statement does: what it deletes and changes is what was there before it."""
        for run_id in writes.claimed:
            self._delete_wakeups("run_id", run_id)
        for run_id in writes.withdrawn:
            for row in self.of("messages", run_id=run_id):
                row["withdrawn"] = True
        for session_id in writes.deleted:
            self._delete_content(session_id)
            self._delete_wakeups("session_id", session_id)
        for table in KEYS:
            for row in writes.updates.get(table, {}).values():
                self._update(table, row)
            for row in writes.inserts.get(table, {}).values():
                self._insert(table, row)

    def _update(self, table: str, changes: Row) -> None:
        row = self.rows[table].get(_key(table, changes))
        if row is None or (table == "runs" and row.get("ended_at") is not None):
            return
        for column, value in changes.items():
            kept = (table, column) in KEEPS_FIRST and row.get(column) is not None
            if not kept and not ((table, column) in KEEPS_LAST and value is None):
                row[column] = value

    def _insert(self, table: str, row: Row) -> None:
        if self._conflicts(table, row):
            return
        added = {"created_at": self.now(), **row}
        if table == "run_steps":
            added["position"] = next(self._position)
        if table == "run_attempts":
            added.setdefault("started_at", self.now())
        self.rows[table][_key(table, row)] = added
        for columns in UNIQUE[table]:
            self._unique[table, columns][_values(row, columns)] = _key(table, row)

    def _delete_content(self, session_id: UUID) -> None:
        runs = {row["id"] for row in self.of("runs", session_id=session_id)}
        for table in _OF_A_RUN:
            self._delete(table, lambda row: row["run_id"] in runs)
        for table in ("messages", "runs", "event_segments"):
            self._delete(table, lambda row: row["session_id"] == session_id)

    def _delete_wakeups(self, column: str, value: UUID) -> None:
        self._delete("outbox", lambda row: row["kind"] == "wakeup" and row[column] == value)

    def delete_outbox(self, item_id: UUID) -> None:
        self.rows["outbox"].pop((item_id,), None)

    def _delete(self, table: str, fits: Callable[[Row], bool]) -> None:
        for key, row in list(self.rows[table].items()):
            if fits(row):
                del self.rows[table][key]
                for columns in UNIQUE[table]:
                    self._unique[table, columns].pop(_values(row, columns), None)

    # -- reads ---------------------------------------------------------------------------------------------------------

    def load(self, ids: Sequence[UUID]) -> Mapping[UUID, Held]:
        found = {}
        for session_id in ids:
            if (row := self.rows["sessions"].get((session_id,))) is not None:
                snapshot = StateSnapshot.load(row["state_snapshot"] or {})
                found[session_id] = Held(snapshot, row["state_version"])
        return found

    def alive(self, attempt_id: UUID, silent_after: float) -> bool:
        attempt = self.rows["run_attempts"].get((attempt_id,))
        beat = self.beats.get(attempt["process"]) if attempt else None
        if attempt is None or beat is None:
            return False
        since = self.now() - timedelta(seconds=silent_after)
        return beat[0] > since and (attempt_id in beat[1] or attempt["started_at"] > since)


def outcome_of(error: Exception) -> str:
    """What became of a commit, in words that both stores can say."""
    lost = sorted(error.partitions) if isinstance(error, PartitionsLost) else ()
    return " ".join([type(error).__name__, *map(str, lost)])


def _both(writes: Writes, table: str) -> list[Row]:
    return [*writes.inserts.get(table, {}).values(), *writes.updates.get(table, {}).values()]


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(row[column] for column in KEYS[table])


def _values(row: Row, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in columns)
