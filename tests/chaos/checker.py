"""Compares the ledgers of clients, model and tool with the database and the event log, promise by promise."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import orjson

from callboard_actors.writes import KEYS
from callboard_runtime.domain.event_batch import EventId
from callboard_runtime.domain.ids import run_uuid, session_uuid
from chaos import witness
from chaos.load import Load, Turn
from front_client import JWT_SECRET, Frame, Reader
from promises import check_reader
from simulation import checks
from stack import Callboard

PROMISES = {
    1: "accepted is durable",
    2: "one end per leg",
    3: "gapless log",
    4: "one writer, fenced",
    5: "commands take effect once",
    6: "idempotent ingress",
    7: "strict tool correlation",
    8: "cancel is durable and bounded",
    9: "usage is conserved",
    10: "overload is honest",
}
PRICES = {name: Decimal(dollars) / 1_000_000 for name, dollars in (("input", 3), ("cached", 1), ("output", 7))}
ALLOWED = frozenset({None, "ATTEMPTS_EXHAUSTED"})
_KEY = re.compile(r"key:(\S+)")


class Rows:
    """The database at rest, as the simulation's checks want to see tables."""

    def __init__(self, rows: dict[str, dict[tuple[Any, ...], dict[str, Any]]]) -> None:
        self.rows = rows

    def of(self, table: str, **match: object) -> Iterator[dict[str, Any]]:
        for row in self.rows[table].values():
            if all(row.get(column) == value for column, value in match.items()):
                yield row


class Checker:
    """`check()` fills `broken` and `examined`, both by promise."""

    def __init__(self, callboard: Callboard, load: Load, deaths: int, silent_after: float) -> None:
        """At most `deaths` calls may have been begun in vain; a worker is dead `silent_after` seconds after a beat."""
        self._callboard, self._load, self._deaths, self._silent_after = callboard, load, deaths, silent_after
        self.broken: dict[int, list[str]] = defaultdict(list)
        self.examined: Counter[int] = Counter()
        self.ended: dict[UUID, str] = {}
        self.streams = SimpleNamespace(shown={})

    def require(self, holds: bool, promise: int, what: str) -> None:
        self.examined[promise] += 1
        if not holds:
            self.broken[promise].append(what)

    async def check(self) -> None:
        self.tables = Rows({table: await self._read(table) for table in KEYS})
        self._note_what_readers_saw()
        for session in self.tables.of("sessions"):
            checks._check_log(self, session)  # type: ignore[arg-type]
            checks._check_messages(self, session)  # type: ignore[arg-type]
            checks._check_usage(self, session)  # type: ignore[arg-type]
            self._check_order(session)
        for turn in self._load.turns:
            self._check_turn(turn)
        self._check_ends()
        self._check_model()
        self._check_tool()
        self._check_refusals()
        self._check_secrets()
        await witness.examine(self._callboard.query, self._load.user, self._silent_after, self.require)

    async def _read(self, table: str) -> dict[tuple[Any, ...], dict[str, Any]]:
        user = {
            "sessions": "user_id = $1",
            "runs": "user_id = $1",
            "outbox": "user_id = $1",
            "run_legs": "user_id = $1",
            "pinned_configs": "$1 <> ''",  # users share them
        }
        session = f"session_id IN (SELECT id FROM sessions WHERE {user['sessions']})"
        run = f"run_id IN (SELECT id FROM runs WHERE {user['runs']})"
        where = user.get(table) or (run if table == "run_steps" else session)
        found = await self._callboard.query(f"SELECT * FROM {table} WHERE {where}", self._load.user)
        return {tuple(row[key] for key in KEYS[table]): row for row in found}

    def _note_what_readers_saw(self) -> None:
        for turn in self._load.turns:
            session_id = session_uuid(self._load.user, turn.thread)
            stored = {at: line for at, line, _ in checks._log(self, session_id)}  # type: ignore[arg-type]
            for reader in turn.readers:
                for frame in reader.logged:
                    at = EventId(*frame.id)  # type: ignore[misc]
                    if at in stored and orjson.loads(stored[at]) != frame.event:
                        self.streams.shown[session_id, at] = str(frame.event)

    # -- by turn -------------------------------------------------------------------------------------------------------

    def _check_turn(self, turn: Turn) -> None:
        run = self.tables.rows["runs"].get((run_uuid(self._load.user, turn.run),))
        statuses = [answer.status for answer in turn.answers]
        self.require(not turn.accepted or run is not None, 1, f"{turn.run} was accepted and is not stored")
        self.require(not turn.published or run is not None, 1, f"{turn.run} was confirmed by the broker and is lost")
        if run is None:
            return
        self.require(not turn.trouble, 1, f"{turn.kind} {turn.run} ({run['status']}): {turn.trouble}")
        self.require(run["error_code"] in ALLOWED, 1, f"{turn.kind} {turn.run} failed: {run['error_code']}")
        if not turn.accepted:
            return
        tasks = {answer.body["task_id"] for answer in turn.answers if answer.status == 202}
        others = [answer.body for answer in turn.answers if answer.status != 202]
        self.require(set(statuses) == {202} and len(tasks) == 1, 6, f"{turn.run}: {statuses} {others}")
        if turn.contradiction is not None:
            self.require(turn.contradiction.code == "RUN_ID_CONFLICT", 6, f"{turn.run}: {turn.contradiction}")
        if turn.shown is not None:
            self.require(
                turn.shown["status"] == run["status"], 2, f"{turn.run}: {turn.shown['status']}, {run['status']}"
            )
        self._check_cancel(turn, run)
        self._check_resumes(turn)
        self._check_readers(turn, run)

    def _check_cancel(self, turn: Turn, run: dict[str, Any]) -> None:
        if turn.cancel is None:
            return
        self.require(turn.cancel.status == 202, 8, f"cancel of {turn.run}: {turn.cancel}")
        if turn.cancel.status == 202:
            said = turn.cancel.body["status"]
            due = "cancelled" if said in ("cancelling", "queued", "running") else said
            self.require(run["status"] == due, 8, f"cancel of {turn.run} said {said}, it is {run['status']}")

    def _check_resumes(self, turn: Turn) -> None:
        if turn.resumes:
            same = {(answer.status, str(answer.body.get("task_id"))) for answer in turn.resumes}
            self.require(len(same) == 1 and turn.resumes[0].status == 202, 7, f"{turn.run}: {turn.resumes}")
        if turn.wrong_resume is not None:
            self.require(turn.wrong_resume.status == 409, 7, f"{turn.run}: {turn.wrong_resume}")

    def _check_readers(self, turn: Turn, run: dict[str, Any]) -> None:
        for leg, reader in enumerate(turn.readers, 1):
            rows = sorted(
                self.tables.of("event_segments", run_id=run["id"], leg=leg), key=lambda r: (r["epoch"], r["first_seq"])
            )
            log = [
                Frame((row["epoch"], row["first_seq"] + offset), orjson.loads(line))
                for row in rows
                for offset, line in enumerate(row["lines"].split("\n"))
            ]
            committed = {frame.id for frame in log}
            for cursor in reader.withdrawn:
                self.require(cursor not in committed, 3, f"reader of leg {leg} of {turn.run}: {cursor} was refused")
            if not log or turn.trouble:
                continue
            try:
                check_reader(reader, log)
                self.require(True, 3, "")
            except AssertionError as error:
                self.require(False, 3, f"reader of leg {leg} of {turn.run}: {str(error)[:300]}")
                self._keep(turn, reader, log, run)

    def _keep(self, turn: Turn, reader: Reader, log: list[Frame], run: dict[str, Any]) -> None:
        """Leave what a reader saw, and what was to be seen, beside the logs."""
        kept = {
            "connections_began_at": reader.cuts,
            "seen": [[frame.id, frame.event] for frame in reader.frames],
            "log": [[frame.id, frame.event] for frame in log],
            "attempts": list(self.tables.of("run_attempts", run_id=run["id"])),
        }
        text = orjson.dumps(kept, default=str, option=orjson.OPT_INDENT_2)
        (self._callboard.folder / f"violation-{turn.run}-{len(reader.cuts)}.json").write_bytes(text)

    # -- by table ------------------------------------------------------------------------------------------------------

    def _check_order(self, session: dict[str, Any]) -> None:
        """A later epoch's rows were written after an earlier one's: nobody wrote under an epoch that was over."""
        segments = sorted(
            self.tables.of("event_segments", session_id=session["id"]), key=lambda r: (r["epoch"], r["first_seq"])
        )
        times = [row["created_at"] for row in segments]
        self.require(times == sorted(times), 4, f"session {session['id']}: an old epoch was written to later")
        epochs = {row["epoch"] for row in self.tables.of("run_attempts", session_id=session["id"])}
        strays = {row["epoch"] for row in segments} - epochs
        self.require(not strays, 4, f"events of epochs that nobody held: {strays}")

    def _check_ends(self) -> None:
        turns = {turn.run: turn for turn in self._load.turns}
        for row in self.tables.of("runs"):
            turn = turns[row["client_run_id"]]
            told = [(answer.status, answer.code) for answer in turn.answers]
            self.require(
                row["ended_at"] is not None,
                1,
                f"{turn.kind} {turn.run} has no end, it is {row['status']}: {told} {turn.doing} {turn.trouble}",
            )
        left = Counter(row["kind"] for row in self.tables.of("outbox") if row["kind"] != "integration")
        self.require(not left["wakeup"], 1, f"wake-ups that nobody needs: {left}")
        for attempt in self.tables.of("run_attempts"):
            self.require(attempt["ended_at"] is not None, 2, f"attempt {attempt['attempt_id']} has no end")
        self.examined[5] += len(self.tables.rows["messages"])
        posted = Counter(row["message_id"] for row in self.tables.of("messages") if row["role"] == "user")
        self.require(max(posted.values(), default=0) <= 1, 5, "a message was taken twice")

    def _check_model(self) -> None:
        """Provider calls <= rows <= calls + deaths, by run; recorded rows are exact."""
        keys = {turn.key: run_uuid(self._load.user, turn.run) for turn in self._load.turns if turn.accepted}
        made: dict[UUID, list[dict[str, Any]]] = defaultdict(list)
        for entry in self._callboard.ledger():
            found = _KEY.search(entry["message"])
            if found and found[1] in keys:
                made[keys[found[1]]].append(entry)
        excess = 0
        for run in keys.values():
            rows, calls = list(self.tables.of("llm_calls", run_id=run)), made[run]
            self.require(len(calls) <= len(rows), 9, f"{run}: {len(calls)} calls, {len(rows)} rows")
            excess += max(0, len(rows) - len(calls))
            self._check_tokens(run, rows, calls)
        self.require(excess <= self._deaths, 9, f"{excess} rows without a call, {self._deaths} deaths")

    def _check_tokens(self, run: UUID, rows: list[dict[str, Any]], calls: list[dict[str, Any]]) -> None:
        asked = Counter((entry["input_tokens"], entry["output_tokens"]) for entry in calls)
        exact = [row for row in rows if row["status"] == "recorded"]
        paid = Counter((row["input_tokens"], row["output_tokens"]) for row in exact)
        self.require(paid <= asked, 9, f"{run}: recorded {dict(paid)}, the model says {dict(asked)}")
        for row in rows:
            self.require(row["status"] != "begun", 9, f"{run}: a call was never closed")
            self.require(row["status"] != "lost" or row["estimated"], 9, f"{run}: a lost call is no estimate")
        for row in exact:
            fresh = row["input_tokens"] - row["cached_tokens"]
            due = (
                fresh * PRICES["input"]
                + row["cached_tokens"] * PRICES["cached"]
                + row["output_tokens"] * PRICES["output"]
            )
            self.require(row["cost"] == due, 9, f"{run}: a call cost {row['cost']}, not {due}")
        keys = Counter(row["key"] for row in exact)
        self.require(max(keys.values(), default=0) <= 1, 9, f"{run}: a recorded call was repeated")

    def _check_tool(self) -> None:
        ledger = self._callboard.folder / "presses"
        presses = Counter(ledger.read_text().split()) if ledger.exists() else Counter[str]()
        for turn in self._load.turns:
            if turn.kind in ("press", "launch"):
                self.require(presses[turn.key] <= 1, 7, f"{turn.run}: the tool was started {presses[turn.key]} times")
        # A call that was approved is asked about once more, by an interrupt of its own, if its worker died inside it.
        answers = Counter(
            (row["tool_call_id"], orjson.loads(row["result"])["interrupt_id"])
            for row in self.tables.of("run_steps")
            if row["kind"] == "answer"
        )
        for (call, interrupt), times in answers.items():
            self.require(times == 1, 7, f"{times} answers to {interrupt or call}")

    def _check_refusals(self) -> None:
        for answer in self._load.refusals:
            self.require("Retry-After" in answer.headers, 10, f"{answer.status} without Retry-After: {answer.body}")

    def _check_secrets(self) -> None:
        for log in self._callboard.folder.glob("*.log"):
            text = log.read_text(errors="replace")
            self.require(JWT_SECRET not in text and "Bearer ey" not in text, 10, f"a secret in {log.name}")

    @property
    def cost(self) -> Decimal:
        return sum((row["cost"] or Decimal(0) for row in self.tables.of("sessions")), Decimal(0))
