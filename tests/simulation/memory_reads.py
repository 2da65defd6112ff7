"""The reads of production's Gatherer and of the workers' brief, on the in-memory tables instead of SQL."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

from callboard_actors import gather
from callboard_actors.commit import Fences, Versioned
from callboard_actors.facts import Facts, KnownAttempt, KnownRun
from callboard_actors.sessions import NEW, Held
from callboard_actors.writes import OutboxItem, Row
from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import ORIGIN, EventBatch, EventId
from callboard_runtime.domain.ids import run_uuid
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import ActiveRun, PendingToolCall, RunStatus, StateSnapshot
from callboard_runtime.entry.brief import JournalRow, RunBrief
from callboard_runtime.errors import NotFound
from callboard_runtime.settings import Settings
from simulation.processes import Outage, Process
from simulation.store import Tables
from simulation.tail import SimTail

T = TypeVar("T")

ANY_EPOCH = 2**62  # later than all there are
COMMIT = 0.02  # seconds; long enough for others to come and wait for the next one


class Database:
    """One process's way to the tables: each look is a suspension point and may find the database away."""

    def __init__(self, tables: Tables, outage: Outage, process: Process) -> None:
        self.tables, self.process, self._outage = tables, process, outage

    async def ask(self, effect: Callable[[Tables], T]) -> T:
        return await self.process.call(lambda: self._outage.use(lambda: effect(self.tables)))


async def no_agents() -> tuple[()]:
    """No row of system_agents."""
    return ()


class MemoryStore:
    """`callboard_actors.store.Store` on the tables; the logic of what to read is production's."""

    def __init__(self, db: Database, settings: Settings, tail: SimTail) -> None:
        self._db, self._tail, self._settings = db, tail, settings
        self._announce = settings.events.enabled
        self._gatherer = gather.Gatherer(settings, tail, lambda _: True)  # type: ignore[arg-type]

    def at_hand(self, held: Held, command: c.Command) -> Facts | None:
        return self._gatherer.at_hand(held, command)

    async def look(self, asked: Sequence[tuple[Held | None, c.Command]]) -> list[tuple[Held, Facts | None]]:
        unknown = [command.session_id for held, command in asked if held is None]
        found = await self._db.ask(lambda tables: tables.load(unknown))
        states = [held or found.get(command.session_id, NEW) for held, command in asked]
        return [(held, await self._facts(held, command)) for held, (_, command) in zip(states, asked, strict=True)]

    async def _facts(self, held: Held, command: c.Command) -> Facts | None:
        if self._gatherer.needs_long_reads(held.snapshot, command):
            return None
        return self.at_hand(held, command) or await self.gather(held.snapshot, command)

    async def gather(self, snapshot: StateSnapshot, command: c.Command) -> Facts:
        agents = gather.Agents(self._settings, no_agents)
        return await self._gatherer.gather(self._db, agents, snapshot, command)  # type: ignore[arg-type]

    async def commit(self, fences: Fences, group: Sequence[Versioned]) -> list[OutboxItem]:
        await asyncio.sleep(COMMIT)
        return await self._db.ask(lambda tables: tables.commit(fences, group, announce=self._announce))

    async def forget(self, session_id: UUID) -> None:
        await self._tail.delete(session_id)


async def known_run(db: Database, user_id: str, client_run_id: str, run_id: UUID | None = None) -> KnownRun | None:
    return await db.ask(lambda tables: _known_run(tables, user_id, client_run_id, run_id))


def _known_run(tables: Tables, user_id: str, client_run_id: str, run_id: UUID | None) -> KnownRun | None:
    run = tables.rows["runs"].get((run_id or run_uuid(user_id, client_run_id),))
    if run is None:
        leg = next(tables.of("run_legs", user_id=user_id, client_run_id=client_run_id), None)
        run = tables.rows["runs"].get((leg["run_id"],)) if leg else None
    if run is None:
        return None
    legs = sorted(tables.of("run_legs", run_id=run["id"]), key=lambda leg: leg["leg"])
    digests = {(leg["client_run_id"], leg["digest"]): leg["leg"] for leg in legs}
    status, number = RunStatus(run["status"]), run.get("leg", 1)
    return KnownRun(run["id"], run["client_run_id"], run["session_id"], status, number, digests)


async def settled_calls(db: Database, command: c.AcceptResume) -> dict[str, PendingToolCall]:
    return await db.ask(lambda tables: _settled_calls(tables, command))


def _settled_calls(tables: Tables, command: c.AcceptResume) -> dict[str, PendingToolCall]:
    calls = {answer.tool_call_id for answer in command.answers if answer.tool_call_id}
    interrupts = {answer.interrupt_id for answer in command.answers if answer.interrupt_id}
    found: dict[str, PendingToolCall] = {}
    for row in tables.of("run_steps", kind="answer"):
        run = tables.rows["runs"].get((row["run_id"],))
        ours = run is not None and run["session_id"] == command.session_id
        if ours and (row["tool_call_id"] in calls or row["result"].get("interrupt_id") in interrupts):
            found[row["tool_call_id"]] = PendingToolCall.model_validate(row["result"])
    return found


async def known_attempt(db: Database, command: c.StartRun) -> KnownAttempt | None:
    return await db.ask(lambda tables: _known_attempt(tables, command.attempt_id))


def _known_attempt(tables: Tables, attempt_id: UUID) -> KnownAttempt | None:
    row = tables.rows["run_attempts"].get((attempt_id,))
    if row is None:
        return None
    segment = tables.rows["event_segments"].get((row["session_id"], row["epoch"], 1), {"lines": ""})
    number = sum(other["epoch"] <= row["epoch"] for other in tables.of("run_attempts", run_id=row["run_id"]))
    opening = EventBatch(epoch=row["epoch"], first_seq=1, lines=tuple(segment["lines"].split("\n")))
    return KnownAttempt(attempt_id, row["epoch"], number, opening)


async def count_attempts(db: Database, run_id: UUID) -> int:
    return await db.ask(lambda tables: sum(1 for _ in tables.of("run_attempts", run_id=run_id)))


async def run_input(db: Database, run_id: UUID) -> RunInput | None:
    row = await db.ask(lambda tables: tables.rows["runs"].get((run_id,)))
    return RunInput.model_validate(row["input"]) if row else None


async def is_alive(db: Database, attempt_id: UUID, silent_after: float, _blind: bool) -> bool:
    return await db.ask(lambda tables: tables.alive(attempt_id, silent_after))


async def leg_events(db: Database, session_id: UUID, run: ActiveRun) -> list[EventBatch]:
    if not run.leg_started:
        return []
    match = {"session_id": session_id, "run_id": run.run_id, "leg": run.leg}
    rows = await db.ask(lambda tables: list(tables.of("event_segments", **match)))
    return [_batch(row) for row in sorted(rows, key=lambda row: (row["epoch"], row["first_seq"]))]


async def transcript(db: Database, session_id: UUID) -> tuple[NewMessage, ...]:
    rows = await db.ask(lambda tables: list(tables.of("messages", session_id=session_id)))
    kept = sorted((row for row in rows if not row.get("withdrawn")), key=lambda row: row["seq"])
    return tuple(_message(row) for row in kept)


async def known_messages(db: Database, command: c.Command, facts: Facts) -> frozenset[str]:
    ids = set(gather._named_messages(command, facts))
    if not ids:
        return frozenset()
    rows = await db.ask(lambda tables: list(tables.of("messages", session_id=command.session_id)))
    return frozenset(row["message_id"] for row in rows if row["message_id"] in ids)


READS: dict[str, Callable[..., Any]] = {
    "_known_run": known_run,
    "_settled_calls": settled_calls,
    "_known_attempt": known_attempt,
    "_count_attempts": count_attempts,
    "_run_input": run_input,
    "_is_alive": is_alive,
    "_leg_events": leg_events,
    "_transcript": transcript,
    "_known_messages": known_messages,
}
"""What takes the place of the functions of these names in `callboard_actors.gather`."""


async def read_brief(db: Database, run_id: UUID, answer: c.StartAnswer, _tokens: int) -> RunBrief:
    """In place of `callboard_runtime.persistence.run_reader.read_brief`."""
    return await db.ask(lambda tables: _read_brief(tables, run_id, answer))


async def read_first_brief(db: Database, run_id: UUID, _tokens: int) -> RunBrief | None:
    """In place of `callboard_runtime.persistence.run_reader.read_first_brief`."""
    return await db.ask(lambda tables: _read_first_brief(tables, run_id))


def _read_first_brief(tables: Tables, run_id: UUID) -> RunBrief | None:
    attempted = any(True for _ in tables.of("run_attempts", run_id=run_id))
    if (run_id,) not in tables.rows["runs"] or attempted:
        return None
    opening = EventBatch(epoch=ANY_EPOCH, first_seq=1, lines=())
    return _read_brief(tables, run_id, c.StartAnswer(epoch=ANY_EPOCH, attempt=1, leg=1, opening=opening))


def _read_brief(tables: Tables, run_id: UUID, answer: c.StartAnswer) -> RunBrief:
    run = tables.rows["runs"].get((run_id,))
    if run is None:
        raise NotFound("the run is gone")
    session = tables.rows["sessions"][run["session_id"],]
    snapshot = StateSnapshot.load(session["state_snapshot"])
    segments = [row for row in tables.of("event_segments", session_id=run["session_id"]) if row["epoch"] < answer.epoch]
    steps = sorted(tables.of("run_steps", run_id=run_id), key=lambda row: row["position"])
    return RunBrief(
        session_id=run["session_id"],
        run_id=run_id,
        user_id=run["user_id"],
        thread_id=session["thread_id"],
        leg_run_id=tables.rows["run_legs"][run_id, answer.leg]["client_run_id"],
        agent_id=run["agent_id"],
        leg=answer.leg,
        config=RuntimeConfig(agent_id="default", workflow_stages=(), stages={}),
        input=RunInput.model_validate(run["input"]),
        journal=tuple(map(_journal_row, steps)),
        shared_state=snapshot.shared_state,
        answers=snapshot.pending_tool_calls,
        log_before=max((EventId(row["epoch"], row["last_seq"]) for row in segments), default=ORIGIN),
    )


def _journal_row(row: Row) -> JournalRow:
    names = ("key", "kind", "name", "digest", "status")
    return JournalRow(*(row[name] for name in names), row.get("result"), row["epoch"], row.get("tool_call_id"))


def _batch(row: Row) -> EventBatch:
    return EventBatch(epoch=row["epoch"], first_seq=row["first_seq"], lines=tuple(row["lines"].split("\n")))


def _message(row: Row) -> NewMessage:
    given = {name: row.get(name) for name in ("message_id", "role", "content", "tool_call_id", "name")}
    return NewMessage(**given, tool_calls=tuple(row.get("tool_calls") or ()))
