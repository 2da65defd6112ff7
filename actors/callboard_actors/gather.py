"""Reads what a command's decision needs beyond the snapshot.

In: a session's snapshot and its next command. Out: `Facts`. Worker commands on the hot path need no read at all.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
from redis.exceptions import RedisError
from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_actors.facts import NO_TAKEOVER, Facts, KnownAttempt, KnownRun, Policy, Takeover
from callboard_actors.look import Found
from callboard_actors.sessions import Held
from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.config.loader import Rows, resolve_rows
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.ids import run_uuid, utcnow
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import ActiveRun, PendingToolCall, RunStatus, StateSnapshot
from callboard_runtime.errors import Refused
from callboard_runtime.settings import Settings
from callboard_runtime.stream.tail import TailStore

logger = logging.getLogger(__name__)

NO_READS = (c.BeginStep, c.RecordStep, c.AppendEvents)
Source = AsyncConnection | Found
"""Where to read: the database, or what one look at it found; the latter only as far as no long reads are needed."""

HeardFor = Callable[[float], bool]
"""Whether the database took this process's heartbeats for so many seconds."""

MAY_FORCE = (c.AcceptRun, c.CancelRun, c.StartRun, c.ReapAttempt, c.EnforceDeadline, c.FailRun)


class Agents:
    """The configurations that new runs of a group are pinned to; `rows` reads system_agents, at most once."""

    def __init__(self, settings: Settings, rows: Callable[[], Awaitable[Rows]]) -> None:
        self._settings, self._rows = settings, rows
        self._known: Rows | None = None
        self._resolved: dict[str, dict[str, Any]] = {}

    async def config(self, agent_id: str) -> dict[str, Any]:
        """Raises Refused for an unknown workflow or a wrong configuration."""
        found = self._resolved.get(agent_id)
        if found is None:
            if self._known is None:
                self._known = await self._rows()
            found = self._resolved[agent_id] = resolve_rows(self._known, agent_id, self._settings).to_json()
        return found


class Gatherer:
    """Reads facts with the actor's own connection; Redis is asked only when an epoch is taken from somebody."""

    def __init__(self, settings: Settings, tail: TailStore, heard_for: HeardFor) -> None:
        self._silent_after = settings.actors.silent_after
        self._settings = settings
        self._tail = tail
        self._heard_for = heard_for
        self._policy = Policy.of(settings.runs)

    def needs_reads(self, snapshot: StateSnapshot, command: c.Command) -> bool:
        if isinstance(command, c.FinishRun | c.RequestTools):
            return bool(snapshot.queue)
        return not isinstance(command, NO_READS)

    def needs_long_reads(self, snapshot: StateSnapshot, command: c.Command) -> bool:
        """Whether one look, for which the command alone says what to look at, does not suffice."""
        if not self.needs_reads(snapshot, command):
            return False
        if snapshot.queue or isinstance(command, c.AcceptResume):
            return True
        if isinstance(command, c.StartRun) and snapshot.active is not None:
            run = snapshot.active
            return run.attempt_id is not None or run.leg_started or run.leg > 1
        return isinstance(command, MAY_FORCE) and snapshot.active is not None

    def at_hand(self, held: Held, command: c.Command) -> Facts | None:
        """The facts of a command that needs no read; None if it needs one."""
        if not self.needs_reads(held.snapshot, command):
            return self.bare()
        run = held.snapshot.active
        if isinstance(command, c.StartRun) and held.untried and run and run.run_id == command.run_id:
            return None if held.snapshot.queue else replace(self.bare(), input=held.untried)
        return None

    def bare(self) -> Facts:
        return Facts(now=utcnow(), policy=self._policy, takeover=NO_TAKEOVER)

    async def gather(self, db: Source, agents: Agents, snapshot: StateSnapshot, command: c.Command) -> Facts:
        """Raises Unavailable (through the caller's connection) when the database is away."""
        facts = self.bare()
        if isinstance(command, c.AcceptRun | c.CancelRun):
            run = await _known_run(db, command.user_id, command.run_id)
            facts = replace(facts, run=run) if run else facts
        if isinstance(command, c.AcceptResume):
            known = await _known_run(db, snapshot.user_id, command.run_id or command.leg_run_id)
            settled = await _settled_calls(_database(db), command)
            facts = replace(
                facts, run=known or await _run_of_calls(_database(db), snapshot.user_id, settled), settled=settled
            )
        if isinstance(command, c.AcceptRun) and facts.run is None:
            facts = await self._for_new_run(agents, facts, command)
        if isinstance(command, c.StartRun):
            facts = await self._for_start(db, facts, snapshot, command)
        if isinstance(command, MAY_FORCE) and snapshot.active is not None:
            facts = await self._for_takeover(db, facts, snapshot, snapshot.active, command)
        if snapshot.queue:
            facts = replace(facts, next_input=await _run_input(db, snapshot.queue[0].run_id))
        known_messages = await _known_messages(db, command, facts)
        return replace(facts, known_messages=known_messages) if known_messages else facts

    async def _for_new_run(self, agents: Agents, facts: Facts, command: c.AcceptRun) -> Facts:
        try:
            return replace(facts, config=await agents.config(command.agent_id))
        except Refused as error:
            return replace(facts, config_error=error)

    async def _for_start(self, db: Source, facts: Facts, snapshot: StateSnapshot, command: c.StartRun) -> Facts:
        run = snapshot.active
        known = await _known_attempt(db, command)
        attempts = await _count_attempts(db, command.run_id)
        facts = replace(facts, attempt=known, attempts=attempts)
        if run is None or run.run_id != command.run_id or run.leg_started:
            return facts
        if run.leg > 1:
            facts = replace(facts, takeover=Takeover(transcript=await _transcript(_database(db), command.session_id)))
        return replace(facts, input=await _run_input(db, run.run_id))

    async def _for_takeover(
        self, db: Source, facts: Facts, snapshot: StateSnapshot, run: ActiveRun, command: c.Command
    ) -> Facts:
        if run.attempt_id is not None:
            blind = not self._heard_for(self._silent_after)
            alive = await _is_alive(_database(db), run.attempt_id, self._silent_after, blind)
            facts = replace(facts, attempt_alive=alive)
        if not _takes_epoch(facts, run, command):
            return facts
        tail = await self._fenced_tail(snapshot, command.session_id) if run.attempt_id is not None else None
        shown = await _leg_events(_database(db), command.session_id, run)
        parts = OpenParts.of(event for batch in [*shown, *([tail] if tail else [])] for _, event in batch.events())
        transcript = await _transcript(_database(db), command.session_id) if run.leg_started else ()
        return replace(facts, takeover=Takeover(tail, parts, transcript))

    async def _fenced_tail(self, snapshot: StateSnapshot, session_id: UUID) -> EventBatch | None:
        """Shut the old epoch out of Redis, and take what it wrote there behind the committed log."""
        try:
            tail = await self._tail.fence(session_id, snapshot.epoch + 1)
        except (RedisError, OSError) as error:
            logger.warning("Redis is away, no tail is adopted: %s", error, extra={"action": "tail_not_adopted"})
            return None
        if tail is None or tail.epoch != snapshot.log_epoch or tail.first_seq > snapshot.log_seq + 1:
            return None
        rest = tail.after(snapshot.log_seq)
        return rest if rest.lines else None


def _database(db: Source) -> AsyncConnection:
    """The database itself, which long reads are made on."""
    assert not isinstance(db, Found)
    return db


def _takes_epoch(facts: Facts, run: ActiveRun, command: c.Command) -> bool:
    """Whether the decision may take the epoch from an attempt, or close what one has shown."""
    if isinstance(command, c.StartRun):
        return facts.attempt is None and command.run_id == run.run_id and run.leg_started and not facts.attempt_alive
    if isinstance(command, c.AcceptRun | c.CancelRun):
        return run.attempt_id is None and run.leg_started
    if isinstance(command, c.ReapAttempt):
        return run.status is RunStatus.CANCELLING and not facts.attempt_alive
    if isinstance(command, c.EnforceDeadline):
        due = [at for at in (run.deadline, run.cancel_by) if at is not None and at <= facts.now]
        return command.run_id == run.run_id and bool(due)
    return isinstance(command, c.FailRun)


async def _run_of_calls(db: AsyncConnection, user_id: str, calls: Mapping[str, PendingToolCall]) -> KnownRun | None:
    """The run whose calls are answered again, under a runId that nobody has used yet."""
    run = next((call.run_id for call in calls.values()), None)
    return await _known_run(db, user_id, "", UUID(run)) if run else None


async def _known_run(db: Source, user_id: str, client_run_id: str, run_id: UUID | None = None) -> KnownRun | None:
    """The run that has, or one of whose legs had, this runId; or the one of this internal id."""
    if isinstance(db, Found):
        return db.runs.get(run_uuid(user_id, client_run_id))
    names = {"id": run_id or run_uuid(user_id, client_run_id), "u": user_id, "c": client_run_id}
    rows = (await db.execute(_KNOWN_RUN, names)).all()
    if not rows:
        return None
    first = rows[0]
    return KnownRun(
        run_id=first.id,
        client_run_id=first.client_run_id,
        session_id=first.session_id,
        status=RunStatus(first.status),
        leg=first.leg,
        digests={(row.leg_run_id, row.digest): row.of_leg for row in rows},
    )


_KNOWN_RUN = text(
    """SELECT r.id, r.client_run_id, r.session_id, r.status, r.leg,
              l.client_run_id AS leg_run_id, l.digest, l.leg AS of_leg
       FROM runs r JOIN run_legs l ON l.run_id = r.id
       WHERE r.id = :id
          OR r.id = (SELECT run_id FROM run_legs WHERE user_id = :u AND client_run_id = :c ORDER BY created_at LIMIT 1)
       ORDER BY (r.id = :id) DESC, l.leg"""
)


async def _settled_calls(db: AsyncConnection, command: c.AcceptResume) -> dict[str, PendingToolCall]:
    calls = [answer.tool_call_id for answer in command.answers if answer.tool_call_id]
    interrupts = [answer.interrupt_id for answer in command.answers if answer.interrupt_id]
    rows = await db.execute(_SETTLED, {"s": command.session_id, "calls": calls, "interrupts": interrupts})
    found = (PendingToolCall.model_validate(row.result) for row in rows)
    return {call.tool_call_id: call for call in found}


_SETTLED = text(
    """SELECT s.result FROM run_steps s JOIN runs r ON r.id = s.run_id
       WHERE r.session_id = :s AND s.kind = 'answer'
         AND (s.tool_call_id = ANY(:calls) OR s.result ->> 'interrupt_id' = ANY(:interrupts))
       ORDER BY s.position"""
)


async def _known_attempt(db: Source, command: c.StartRun) -> KnownAttempt | None:
    if isinstance(db, Found):
        return db.attempts.get(command.attempt_id)
    row = (await db.execute(_KNOWN_ATTEMPT, {"a": command.attempt_id})).one_or_none()
    if row is None:
        return None
    opening = EventBatch(epoch=row.epoch, first_seq=1, lines=tuple((row.lines or "").split("\n")))
    return KnownAttempt(attempt_id=command.attempt_id, epoch=row.epoch, number=row.number, opening=opening)


_KNOWN_ATTEMPT = text(
    """SELECT a.epoch, s.lines,
              (SELECT count(*) FROM run_attempts b WHERE b.run_id = a.run_id AND b.epoch <= a.epoch) AS number
       FROM run_attempts a
       LEFT JOIN event_segments s ON s.session_id = a.session_id AND s.epoch = a.epoch AND s.first_seq = 1
       WHERE a.attempt_id = :a"""
)


async def _count_attempts(db: Source, run_id: UUID) -> int:
    if isinstance(db, Found):
        return db.counts[run_id]
    return (await db.execute(text("SELECT count(*) FROM run_attempts WHERE run_id = :r"), {"r": run_id})).scalar_one()


async def _run_input(db: Source, run_id: UUID) -> RunInput | None:
    if isinstance(db, Found):
        return db.inputs[run_id]
    stored = (await db.execute(text("SELECT input FROM runs WHERE id = :r"), {"r": run_id})).scalar_one_or_none()
    return RunInput.model_validate(stored) if stored is not None else None


async def _is_alive(db: AsyncConnection, attempt_id: UUID, silent_after: float, blind: bool) -> bool:
    """Whether the attempt's process beats and lists it; a fresh attempt need not be listed yet.

    `blind`: nobody's beats came through lately, so that silence says nothing.
    """
    known = {"a": attempt_id, "listed": orjson.dumps([str(attempt_id)]).decode(), "s": silent_after, "blind": blind}
    return bool((await db.execute(_ALIVE, known)).scalar_one())


_ALIVE = text(
    """SELECT EXISTS (
           SELECT 1 FROM run_attempts a JOIN processes p ON p.id = a.process
           WHERE a.attempt_id = :a
             AND (:blind OR p.beat_at > now() - make_interval(secs => :s))
             AND (p.attempts @> CAST(:listed AS jsonb) OR a.started_at > now() - make_interval(secs => :s)))"""
)


async def _leg_events(db: AsyncConnection, session_id: UUID, run: ActiveRun) -> list[EventBatch]:
    if not run.leg_started:
        return []
    rows = await db.execute(_LEG_EVENTS, {"s": session_id, "r": run.run_id, "l": run.leg})
    return [_segment(row) for row in rows]


def _segment(row: Row[Any]) -> EventBatch:
    return EventBatch(epoch=row.epoch, first_seq=row.first_seq, lines=tuple(row.lines.split("\n")))


_LEG_EVENTS = text(
    """SELECT epoch, first_seq, lines FROM event_segments
       WHERE session_id = :s AND run_id = :r AND leg = :l ORDER BY epoch, first_seq"""
)


async def _transcript(db: AsyncConnection, session_id: UUID) -> tuple[NewMessage, ...]:
    rows = await db.execute(_TRANSCRIPT, {"s": session_id})
    return tuple(
        NewMessage(
            message_id=row.message_id,
            role=row.role,
            content=row.content,
            tool_calls=tuple(row.tool_calls or ()),
            tool_call_id=row.tool_call_id,
            name=row.name,
        )
        for row in rows
    )


_TRANSCRIPT = text(
    """SELECT message_id, role, content, tool_calls, tool_call_id, name FROM messages
       WHERE session_id = :s AND NOT withdrawn ORDER BY seq"""
)


async def _known_messages(db: Source, command: c.Command, facts: Facts) -> frozenset[str]:
    ids = list(_named_messages(command, facts))
    if not ids:
        return frozenset()
    if isinstance(db, Found):
        return db.messages.get(command.session_id, frozenset())
    found = await db.execute(_KNOWN_MESSAGES, {"s": command.session_id, "ids": ids})
    return frozenset(row.message_id for row in found)


def _named_messages(command: c.Command, facts: Facts) -> Iterable[str]:
    yield from facts.takeover.open.texts
    if isinstance(command, c.AcceptResume):
        yield from (name for a in command.answers for name in (a.message_id, f"tool-{a.tool_call_id}") if name)
    for given in (facts.next_input, command.input if isinstance(command, c.AcceptRun) else None):
        yield from (message.message_id for message in given.messages) if given else ()


_KNOWN_MESSAGES = text("SELECT message_id FROM messages WHERE session_id = :s AND message_id = ANY(:ids)")
