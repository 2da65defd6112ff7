"""`evolve(snapshot, event)`: the snapshot after one event. Pure; it never refuses, what happened has happened."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from callboard_runtime.domain import events as e
from callboard_runtime.domain.state_snapshot import (
    ActiveRun,
    OpenStep,
    PendingToolCall,
    RunStatus,
    SessionStatus,
    StateSnapshot,
)
from callboard_runtime.domain.usage import CallUsage, UsageTotals


def evolve(snapshot: StateSnapshot, event: e.Event) -> StateSnapshot:
    return _APPLY[type(event)](snapshot, event)


def _unchanged(snapshot: StateSnapshot, _: e.Event) -> StateSnapshot:
    return snapshot


def _session_opened(s: StateSnapshot, event: e.SessionOpened) -> StateSnapshot:
    return s.but(session_id=str(event.session_id), user_id=event.user_id, thread_id=event.thread_id)


def _run_accepted(s: StateSnapshot, event: e.RunAccepted) -> StateSnapshot:
    return s.but(queue=(*s.queue, event.run))


def _run_activated(s: StateSnapshot, event: e.RunActivated) -> StateSnapshot:
    active = ActiveRun(
        run_id=event.run.run_id,
        client_run_id=event.run.client_run_id,
        agent_id=event.run.agent_id,
        leg_run_id=event.run.client_run_id,
        deadline=event.deadline,
    )
    rest = _without_queued(s, event.run.run_id)
    return rest.but(active=active, status=SessionStatus.ACTIVE, shared_state=event.state)


def _without_queued(s: StateSnapshot, run_id: Any) -> StateSnapshot:
    return s.but(queue=tuple(run for run in s.queue if run.run_id != run_id))


def _run_dequeued(s: StateSnapshot, event: e.RunDequeued) -> StateSnapshot:
    return _without_queued(s, event.run_id)


def _leg_opened(s: StateSnapshot, event: e.LegOpened) -> StateSnapshot:
    return _active(
        s.but(status=SessionStatus.ACTIVE, pending_tool_calls=()),
        leg=event.leg,
        leg_run_id=event.client_run_id,
        leg_started=False,
        leg_usage={},
        status=RunStatus.QUEUED,
        deadline=event.deadline,
        attempts_without_progress=0,
    )


def _active(s: StateSnapshot, **changes: Any) -> StateSnapshot:
    return s if s.active is None else s.but(active=s.active.but(**changes))


def _messages_appended(s: StateSnapshot, event: e.MessagesAppended) -> StateSnapshot:
    return s.but(message_count=event.first_seq + len(event.messages) - 1)


def _attempt_started(s: StateSnapshot, event: e.AttemptStarted) -> StateSnapshot:
    assert s.active is not None
    return _active(
        s.but(epoch=event.epoch),
        status=RunStatus.RUNNING,
        attempt_id=event.attempt_id,
        process=event.process,
        attempts_without_progress=s.active.attempts_without_progress + 1,
        last_ordinal=0,
        deadline=event.deadline,
    )


def _epoch_taken(s: StateSnapshot, event: e.EpochTaken) -> StateSnapshot:
    return s.but(epoch=event.epoch)


def _attempt_ended(s: StateSnapshot, event: e.AttemptEnded) -> StateSnapshot:
    if s.active is None:
        return s
    orderly = event.outcome in ("finished", "paused", "released")
    closed = {"closed_epoch": s.epoch, "closed_ordinal": s.active.last_ordinal} if orderly else {}
    waiting = _given_back(s.active) if event.outcome == "released" else {}
    return _active(s.but(**closed), attempt_id=None, process=None, **waiting)


def _given_back(run: ActiveRun) -> dict[str, Any]:
    """An orderly hand-over is not a failed attempt."""
    return {"status": RunStatus.QUEUED, "attempts_without_progress": max(0, run.attempts_without_progress - 1)}


def _command_applied(s: StateSnapshot, event: e.CommandApplied) -> StateSnapshot:
    return _active(s, last_ordinal=event.ordinal)


def _events_committed(s: StateSnapshot, event: e.EventsCommitted) -> StateSnapshot:
    s = s.but(log_epoch=event.batch.epoch, log_seq=event.batch.last_seq)
    return _active(s, leg_started=True)


def _steps_begun(s: StateSnapshot, event: e.StepsBegun) -> StateSnapshot:
    begun = {
        step.key: OpenStep(
            kind=step.kind,
            provider=step.provider,
            model=step.model,
            input_tokens=step.input_tokens,
            input_price=step.input_price,
            output_price=step.output_price,
        )
        for step in event.steps
    }
    return _active(s, open_steps={**_open_steps(s), **begun})


def _open_steps(s: StateSnapshot) -> Mapping[str, OpenStep]:
    return s.active.open_steps if s.active else {}


def _steps_recorded(s: StateSnapshot, event: e.StepsRecorded) -> StateSnapshot:
    done = {record.key for record in event.records}
    progress = any(record.outcome == "recorded" for record in event.records)
    s = _active(s, open_steps={k: v for k, v in _open_steps(s).items() if k not in done})
    for record in event.records:
        s = _count(s, record.usage)
    return _active(s, attempts_without_progress=0) if progress else s


def _count(s: StateSnapshot, usage: CallUsage | None) -> StateSnapshot:
    if usage is None or s.active is None:
        return s
    name = f"{usage.provider}/{usage.model}"
    leg = {**s.active.leg_usage, name: s.active.leg_usage.get(name, UsageTotals()).plus(usage)}
    return _active(s.but(usage=s.usage.plus(usage)), usage=s.active.usage.plus(usage), leg_usage=leg)


def _step_lost(s: StateSnapshot, event: e.StepLost) -> StateSnapshot:
    s = _active(s, open_steps={k: v for k, v in _open_steps(s).items() if k != event.key})
    return _count(s, event.usage)


def _state_changed(s: StateSnapshot, event: e.StateChanged) -> StateSnapshot:
    return s.but(shared_state=event.state)


def _cancel_requested(s: StateSnapshot, event: e.RunCancelRequested) -> StateSnapshot:
    return _active(s, status=RunStatus.CANCELLING, cancel_by=event.cancel_by, withdraw=event.withdraw)


def _tools_requested(s: StateSnapshot, event: e.ToolsRequested) -> StateSnapshot:
    s = s.but(pending_tool_calls=event.calls, status=SessionStatus.AWAITING_INPUT)
    expiries = [call.expires_at for call in event.calls if call.expires_at is not None]
    return _active(s, status=RunStatus.AWAITING_INPUT, deadline=min(expiries, default=None))


def _tool_call_settled(s: StateSnapshot, event: e.ToolCallSettled) -> StateSnapshot:
    kept = event.call.but(answer=None)

    def settled(call: PendingToolCall) -> PendingToolCall:
        return kept if call.tool_call_id == event.call.tool_call_id else call

    return s.but(pending_tool_calls=tuple(settled(call) for call in s.pending_tool_calls))


def _run_ended(s: StateSnapshot, event: e.RunEnded) -> StateSnapshot:
    if s.active is None or s.active.run_id != event.run_id:
        return _without_queued(s, event.run_id)
    return s.but(active=None, pending_tool_calls=(), status=SessionStatus.IDLE)


def _session_deleted(s: StateSnapshot, _: e.SessionDeleted) -> StateSnapshot:
    nothing = {"active": None, "queue": (), "pending_tool_calls": (), "shared_state": None, "message_count": 0}
    return s.but(status=SessionStatus.DELETED, epoch=s.epoch + 1, **nothing)


_APPLY: dict[type, Callable[[StateSnapshot, Any], StateSnapshot]] = {
    e.SessionOpened: _session_opened,
    e.RunAccepted: _run_accepted,
    e.RunActivated: _run_activated,
    e.RunDequeued: _run_dequeued,
    e.LegOpened: _leg_opened,
    e.RunDispatched: _unchanged,
    e.MessagesAppended: _messages_appended,
    e.MessagesWithdrawn: _unchanged,
    e.AttemptStarted: _attempt_started,
    e.EpochTaken: _epoch_taken,
    e.AttemptEnded: _attempt_ended,
    e.CommandApplied: _command_applied,
    e.EventsCommitted: _events_committed,
    e.StepsBegun: _steps_begun,
    e.StepsRecorded: _steps_recorded,
    e.StepLost: _step_lost,
    e.StateChanged: _state_changed,
    e.RunCancelRequested: _cancel_requested,
    e.WorkerTold: _unchanged,
    e.ToolsRequested: _tools_requested,
    e.ToolCallSettled: _tool_call_settled,
    e.CommandRefused: _unchanged,
    e.RunEnded: _run_ended,
    e.ReadersPoked: _unchanged,
    e.SessionDeleted: _session_deleted,
    e.Audited: _unchanged,
    e.SessionPruned: _unchanged,
}
