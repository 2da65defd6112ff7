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

from callboard_actors.commit import _QUIET, RunIdTaken, Versioned, rows_of  # pyright: ignore[reportPrivateUsage]
from callboard_actors.sessions import Held
from callboard_actors.writes import KEYS, OutboxItem, Row, Writes
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.errors import FencedOut
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
        self.owners: dict[int, str] = {}
        self.beats: dict[str, tuple[datetime, tuple[UUID, ...]]] = {}  # process -> its heartbeat
        self.checks_partition = self.checks_version = True
        self.now = now
        self.history: list[tuple[int, int, list[Versioned], str]] = []  # every commit that was tried
        self.on_commit: Callable[[Sequence[Versioned], Writes, bool], None] = lambda _group, _writes, _owned: None
        self._position = itertools.count(1)
        self._unique: dict[tuple[str, tuple[str, ...]], dict[tuple[Any, ...], tuple[Any, ...]]] = {
            (table, columns): {} for table in KEYS for columns in UNIQUE[table]
        }

    def take(self, partition: int, process: str) -> int:
        self.partitions[partition] += 1
        self.owners[partition] = process
        self.history.append((partition, self.partitions[partition], [], "taken"))
        return self.partitions[partition]

    def of(self, table: str, **match: object) -> Iterator[Row]:
        """The rows with these values, in the order in which they came."""
        for row in list(self.rows[table].values()):
            if all(row.get(column) == value for column, value in match.items()):
                yield row

    # -- commits -------------------------------------------------------------------------------------------------------

    def commit(self, partition: int, epoch: int, group: Sequence[Versioned], *, announce: bool) -> list[OutboxItem]:
        try:
            items = self._commit(partition, epoch, group, announce=announce)
        except Exception as error:
            self.history.append((partition, epoch, list(group), type(error).__name__))
            raise
        self.history.append((partition, epoch, list(group), "written"))
        return items

    def _commit(self, partition: int, epoch: int, group: Sequence[Versioned], *, announce: bool) -> list[OutboxItem]:
        writes = rows_of(group, announce=announce)
        owned = self.partitions[partition] == epoch
        # PostgreSQL finds a doubled row before the counts are looked at, whoever wrote it.
        self._check_unique(writes)
        if self.checks_partition and not owned:
            raise FencedOut("another process owns this partition now")
        if not all(self._session_as_expected(row) for row in _both(writes, "sessions")):
            raise FencedOut("a session was written by another process")
        if any(self._conflicts("runs", row) for row in writes.inserts.get("runs", {}).values()):
            raise RunIdTaken
        self._apply(writes)
        self.on_commit(group, writes, owned)
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


def _both(writes: Writes, table: str) -> list[Row]:
    return [*writes.inserts.get(table, {}).values(), *writes.updates.get(table, {}).values()]


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(row[column] for column in KEYS[table])


def _values(row: Row, columns: tuple[str, ...]) -> tuple[Any, ...]:
    return tuple(row.get(column) for column in columns)
