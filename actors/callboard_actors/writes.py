"""From decided events to table rows. One row is written once per commit: later changes join the row they change."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any
from uuid import UUID, uuid5

from callboard_actors.announcements import announcements
from callboard_actors.hooks import NO_HOOKS, Hooks
from callboard_actors.replies import Decided
from callboard_runtime.domain import events as e
from callboard_runtime.domain.ids import new_id, partition_of
from callboard_runtime.domain.state_snapshot import ActiveRun, StateSnapshot
from callboard_runtime.domain.usage import UsageTotals
from callboard_runtime.observe.tracing import HEADER
from callboard_runtime.persistence.database import dump_json

Row = dict[str, Any]

KEYS = {
    "sessions": ("id",),
    "pinned_configs": ("digest",),
    "runs": ("id",),
    "run_legs": ("run_id", "leg"),
    "run_attempts": ("attempt_id",),
    "run_steps": ("run_id", "key", "epoch"),
    "llm_calls": ("run_id", "key", "epoch"),
    "messages": ("session_id", "seq"),
    "event_segments": ("session_id", "epoch", "first_seq"),
    "outbox": ("id",),
    "webhook_deliveries": ("id",),
    "audit_log": ("id",),
}
"""The tables a commit writes, in the order of their references, with their primary keys."""


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """A committed outbox row, handed to the relay without reading it again."""

    id: UUID
    kind: str
    partition: int
    session_id: UUID
    run_id: UUID | None
    user_id: str
    payload: dict[str, Any]
    lines: tuple[str, ...] = ()  # of an `events` item: the batch itself


@dataclass(slots=True)
class Writes:
    """The rows of one commit, by table and key."""

    inserts: dict[str, dict[tuple[Any, ...], Row]] = field(default_factory=dict)
    updates: dict[str, dict[tuple[Any, ...], Row]] = field(default_factory=dict)
    outbox: list[OutboxItem] = field(default_factory=list)
    claimed: list[UUID] = field(default_factory=list)  # runs whose wake-ups are done with
    withdrawn: list[UUID] = field(default_factory=list)  # runs whose messages are withdrawn
    deleted: list[UUID] = field(default_factory=list)  # sessions whose content goes
    pruned: list[e.SessionPruned] = field(default_factory=list)
    _digests: dict[int, tuple[str, Row]] = field(default_factory=dict)  # of configurations, which runs share

    def pin(self, config: Row) -> str:
        """Keep a configuration; returns its digest."""
        found = self._digests.get(id(config))  # kept with the object, so that the id stays its own
        if found is not None:
            return found[0]
        digest = hashlib.sha256(dump_json(config).encode()).hexdigest()
        self._digests[id(config)] = digest, config
        self.insert("pinned_configs", {"digest": digest, "config": config})
        return digest

    def insert(self, table: str, row: Row) -> None:
        self.inserts.setdefault(table, {})[_key(table, row)] = row

    def update(self, table: str, row: Row) -> None:
        """Change the named columns; `row` has the key columns too."""
        key = _key(table, row)
        inserted = self.inserts.get(table, {}).get(key)
        target = inserted if inserted is not None else self.updates.setdefault(table, {}).setdefault(key, {})
        target.update(row)

    def send(self, item: OutboxItem) -> None:
        self.outbox.append(item)
        columns = ("id", "kind", "partition", "session_id", "run_id", "user_id", "payload")
        self.insert("outbox", {name: getattr(item, name) for name in columns})


def _key(table: str, row: Row) -> tuple[Any, ...]:
    return tuple(row[column] for column in KEYS[table])


def write(
    writes: Writes, decided: Decided, *, announce: bool = True, hooks: Hooks = NO_HOOKS, trace: str | None = None
) -> None:
    """Add the rows of one decided command; `announce`: tell integrations, too; `trace`: the command's, if traced."""
    at = _At(decided.command.session_id, decided.facts.now, decided.before, decided.after, writes, trace)
    for event in decided.events:
        handler = _WRITERS.get(type(event))
        if handler is not None:
            handler(at, event)
    _write_active_run(at)
    for told in announcements(decided) if announce or hooks.endpoints else ():
        if announce:
            writes.send(at.outbox("integration", told.run_id, {"name": told.name, "body": told.body}, id=told.id))
        for delivery in hooks.deliveries(told, at.session_id):
            writes.insert("webhook_deliveries", delivery)


@dataclass(frozen=True, slots=True)
class _At:
    session_id: UUID
    now: datetime
    before: StateSnapshot
    after: StateSnapshot
    writes: Writes
    trace: str | None

    @property
    def traced(self) -> Row:
        """The column, or the member of a payload, that says in which trace this came about."""
        return {HEADER: self.trace} if self.trace else {}

    def outbox(self, kind: str, run_id: UUID | None, payload: Row, *, id: UUID | None = None) -> OutboxItem:
        user, partition = self.after.user_id, partition_of(self.session_id)
        return OutboxItem(id or new_id(), kind, partition, self.session_id, run_id, user, payload)


def _write_active_run(at: _At) -> None:
    """The run's row repeats what the snapshot says of it, so that reads need no snapshot."""
    row = _run_row(at.after.active)
    if row and row != _run_row(at.before.active):
        at.writes.update("runs", row)


def _run_row(run: ActiveRun | None) -> Row:
    if run is None:
        return {}
    place = {"id": run.run_id, "status": run.status, "leg": run.leg}
    return {**place, "deadline": run.deadline, "cancel_by": run.cancel_by, **_totals(run.usage)}


def _totals(usage: UsageTotals) -> Row:
    return {
        "calls": usage.calls,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "cost": usage.cost,
        "unpriced_calls": usage.unpriced_calls,
    }


def session_row(snapshot: StateSnapshot, now: datetime, *, said: bool, changed: bool) -> Row:
    """The session's columns from its snapshot; `said`: a message was added, `changed`: lists should show it anew.

    A None time keeps the column: an indexed column that stays as it is makes the row cheaper to write.
    """
    usage = _totals(snapshot.usage)
    del usage["calls"]
    return {
        "user_id": snapshot.user_id,
        "thread_id": snapshot.thread_id,
        "status": snapshot.status,
        "state_snapshot": snapshot.to_json(),
        "log_epoch": snapshot.log_epoch,
        "log_seq": snapshot.log_seq,
        "message_count": snapshot.message_count,
        "last_message_at": now if said else None,
        "updated_at": now if said or changed else None,
        **usage,
    }


def _run_accepted(at: _At, event: e.RunAccepted) -> None:
    run, digest = event.run, at.writes.pin(event.config)
    at.writes.insert(
        "runs",
        {
            "id": run.run_id,
            "user_id": event.user_id,
            "client_run_id": run.client_run_id,
            "session_id": at.session_id,
            "agent_id": run.agent_id,
            "digest": event.digest,
            "input": event.input.model_dump(mode="json", exclude_defaults=True),
            "config_digest": digest,
            "status": "queued",
        },
    )
    _open_leg(at, run.run_id, 1, event.user_id, run.client_run_id, event.digest)


def _open_leg(at: _At, run_id: UUID, leg: int, user_id: str, client_run_id: str, digest: str) -> None:
    row = {"run_id": run_id, "leg": leg, "user_id": user_id, "client_run_id": client_run_id, "digest": digest}
    at.writes.insert("run_legs", row | at.traced)


def _leg_opened(at: _At, event: e.LegOpened) -> None:
    _open_leg(at, event.run_id, event.leg, at.after.user_id, event.client_run_id, event.digest)
    at.writes.update("runs", {"id": event.run_id, "leg": event.leg})


def _run_dispatched(at: _At, event: e.RunDispatched) -> None:
    """One wake-up row per leg: its id comes from the leg, so that it is never there twice."""
    wakeup = uuid5(event.run_id, f"wakeup-{event.leg}")
    # Only if this very command asked for the leg: the end of the run before must not pass its own trace on.
    asked_now = (event.run_id, event.leg) in at.writes.inserts.get("run_legs", {})
    payload = {"leg": event.leg} | (at.traced if asked_now else {})
    at.writes.send(at.outbox("wakeup", event.run_id, payload, id=wakeup))
    if at.before.active is None or at.before.active.run_id != event.run_id:
        # Pinned once: what this run says later must not come back to it as history when another attempt replays it.
        history = {"run_id": event.run_id, "leg": event.leg, "history_seq": at.after.message_count}
        at.writes.update("run_legs", history)


def _run_activated(at: _At, event: e.RunActivated) -> None:
    """Prompts may show the state: a replay needs it as it was when the run began."""
    if event.state is not None:
        at.writes.update("runs", {"id": event.run.run_id, "initial_state": event.state})


def _messages_appended(at: _At, event: e.MessagesAppended) -> None:
    for offset, message in enumerate(event.messages):
        row = message.model_dump(mode="json")
        row["tool_calls"] = row["tool_calls"] or None
        row |= {"session_id": at.session_id, "seq": event.first_seq + offset, "run_id": event.run_id}
        at.writes.insert("messages", row)


def _messages_withdrawn(at: _At, event: e.MessagesWithdrawn) -> None:
    """Those that were there, and those that this very commit adds: its update does not see its own inserts."""
    at.writes.withdrawn.append(event.run_id)
    for row in at.writes.inserts.get("messages", {}).values():
        if row["run_id"] == event.run_id:
            row["withdrawn"] = True


def _attempt_started(at: _At, event: e.AttemptStarted) -> None:
    _insert_attempt(at, event.run_id, event.leg, event.epoch, event.attempt_id, event.process)
    at.writes.update("runs", {"id": event.run_id, "started_at": at.now})
    at.writes.claimed.append(event.run_id)


def _insert_attempt(at: _At, run_id: UUID, leg: int, epoch: int, attempt_id: UUID, process: str) -> None:
    row = {"attempt_id": attempt_id, "run_id": run_id, "session_id": at.session_id, "leg": leg, "epoch": epoch}
    at.writes.insert("run_attempts", {**row, "process": process})
    at.writes.update("run_legs", {"run_id": run_id, "leg": leg, "first_epoch": epoch})


def _epoch_taken(at: _At, event: e.EpochTaken) -> None:
    """Every epoch has an attempt row, so that a leg's epochs are found in one place."""
    attempt = uuid5(event.run_id, f"epoch-{event.epoch}")
    _insert_attempt(at, event.run_id, event.leg, event.epoch, attempt, "actor")
    at.writes.update("run_attempts", {"attempt_id": attempt, "outcome": "ended", "ended_at": at.now})


def _attempt_ended(at: _At, event: e.AttemptEnded) -> None:
    at.writes.update("run_attempts", {"attempt_id": event.attempt_id, "outcome": event.outcome, "ended_at": at.now})


def _events_committed(at: _At, event: e.EventsCommitted) -> None:
    batch = event.batch
    place = {"session_id": at.session_id, "epoch": batch.epoch, "first_seq": batch.first_seq}
    about = {"last_seq": batch.last_seq, "run_id": event.run_id, "leg": event.leg, "closing": event.closing}
    at.writes.insert("event_segments", {**place, **about, "lines": "\n".join(batch.lines)})
    if event.closing:
        end = {"last_epoch": batch.epoch, "last_seq": batch.last_seq, "ended_at": at.now}
        at.writes.update("run_legs", {"run_id": event.run_id, "leg": event.leg, **end})
    if event.publish:
        _send_events(at, event)


def _send_events(at: _At, event: e.EventsCommitted) -> None:
    payload = {
        "epoch": event.batch.epoch,
        "first_seq": event.batch.first_seq,
        "last_seq": event.batch.last_seq,
        "leg": event.leg,
        "closing": event.closing,
        "previous": str(event.previous),
        "poke": False,
        **at.traced,
    }
    item = at.outbox("events", event.run_id, payload)
    at.writes.send(replace(item, lines=event.batch.lines))


def _readers_poked(at: _At, event: e.ReadersPoked) -> None:
    at.writes.send(at.outbox("events", event.run_id, {"poke": True}))


def _worker_told(at: _At, event: e.WorkerTold) -> None:
    payload = {"process": event.process, "type": "cancel", "epoch": event.epoch}
    at.writes.send(at.outbox("control", event.run_id, payload))


def _steps_begun(at: _At, event: e.StepsBegun) -> None:
    for step in event.steps:
        place = {"run_id": event.run_id, "key": step.key, "epoch": event.epoch}
        about = {"kind": step.kind, "name": step.name, "digest": step.digest, "tool_call_id": step.tool_call_id}
        at.writes.insert("run_steps", {**place, **about, "status": "begun"})
        if step.kind == "model":
            call = {"session_id": at.session_id, "stage": step.name, "provider": step.provider, "model": step.model}
            at.writes.insert("llm_calls", {**place, **call, "status": "begun", "input_tokens": step.input_tokens})


def _steps_recorded(at: _At, event: e.StepsRecorded) -> None:
    for record in event.records:
        place = {"run_id": event.run_id, "key": record.key, "epoch": event.epoch}
        outcome = {"status": record.outcome, "result": record.result, "error": record.error, "recorded_at": at.now}
        at.writes.update("run_steps", {**place, **outcome})
        if record.usage is not None:
            usage = record.usage.model_dump(mode="json")
            at.writes.update("llm_calls", {**place, **usage, "status": record.outcome, "ended_at": at.now})


def _step_lost(at: _At, event: e.StepLost) -> None:
    place = {"run_id": event.run_id, "key": event.key, "epoch": event.epoch}
    status = "lost" if event.kind == "model" else "unknown"
    at.writes.update("run_steps", {**place, "status": status})
    if event.usage is not None:
        usage = event.usage.model_dump(mode="json", exclude={"first_token_ms", "latency_ms"})
        at.writes.update("llm_calls", {**place, **usage, "status": status, "ended_at": at.now})


def _tool_call_settled(at: _At, event: e.ToolCallSettled) -> None:
    """The answer joins the journal, where the next leg's replay finds it."""
    call = event.call
    row = {"run_id": event.run_id, "key": f"answer:{call.tool_call_id}", "epoch": at.after.epoch, "kind": "answer"}
    row |= {"name": call.tool_name, "digest": call.answer_digest or "", "tool_call_id": call.tool_call_id}
    at.writes.insert(
        "run_steps", {**row, "status": "recorded", "result": call.model_dump(mode="json"), "recorded_at": at.now}
    )


def _run_ended(at: _At, event: e.RunEnded) -> None:
    row: Row = {"id": event.run_id, "status": event.status, "ended_at": at.now, "deadline": None, "cancel_by": None}
    row |= {"error_code": event.error_code, "error_message": event.error_message}
    run = _run_before(at, event.run_id)
    at.writes.update("runs", row | (_totals(run) if run else {}))
    at.writes.claimed.append(event.run_id)


def _run_before(at: _At, run_id: UUID) -> UsageTotals | None:
    """The ended run's totals: those before the turn, plus what the session gained in it."""
    run = at.before.active
    return _gain(run.usage, at.before.usage, at.after.usage) if run is not None and run.run_id == run_id else None


def _gain(run: UsageTotals, before: UsageTotals, after: UsageTotals) -> UsageTotals:
    names = UsageTotals.model_fields
    return UsageTotals(**{name: getattr(run, name) + getattr(after, name) - getattr(before, name) for name in names})


def _session_deleted(at: _At, event: e.SessionDeleted) -> None:
    at.writes.deleted.append(event.session_id)


def _session_pruned(at: _At, event: e.SessionPruned) -> None:
    at.writes.pruned.append(event)


def _audited(at: _At, event: e.Audited) -> None:
    row = {"actor": event.actor, "action": event.action, "run_id": event.run_id, "subject": event.subject}
    at.writes.insert("audit_log", {"id": new_id(), "session_id": at.session_id, **row, "details": event.details})


_WRITERS: dict[type, Callable[[_At, Any], None]] = {
    e.RunAccepted: _run_accepted,
    e.RunActivated: _run_activated,
    e.LegOpened: _leg_opened,
    e.RunDispatched: _run_dispatched,
    e.MessagesAppended: _messages_appended,
    e.MessagesWithdrawn: _messages_withdrawn,
    e.AttemptStarted: _attempt_started,
    e.EpochTaken: _epoch_taken,
    e.AttemptEnded: _attempt_ended,
    e.EventsCommitted: _events_committed,
    e.StepsBegun: _steps_begun,
    e.StepsRecorded: _steps_recorded,
    e.StepLost: _step_lost,
    e.ToolCallSettled: _tool_call_settled,
    e.RunEnded: _run_ended,
    e.ReadersPoked: _readers_poked,
    e.WorkerTold: _worker_told,
    e.SessionDeleted: _session_deleted,
    e.Audited: _audited,
    e.SessionPruned: _session_pruned,
}


def messages_added(events: Iterable[e.Event]) -> bool:
    return any(isinstance(event, e.MessagesAppended) for event in events)
