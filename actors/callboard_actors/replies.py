"""`answer(...)`: the reply to a command, from what stands after it; so a repeated command gets the same one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from callboard_actors.facts import Facts
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.ids import run_uuid, task_id
from callboard_runtime.domain.state_snapshot import RunStatus, StateSnapshot
from callboard_runtime.errors import NotRunnable


@dataclass(frozen=True, slots=True)
class Decided:
    """A command, what it was decided on, and what came of it."""

    command: c.Command
    facts: Facts
    before: StateSnapshot
    after: StateSnapshot
    events: Sequence[e.Event]


def opened_leg(decided: Decided, run_id: UUID) -> int | None:
    """The leg that the command opened in this run: for what comes next, or for a paused run's end."""
    legs = [event.leg for event in decided.events if isinstance(event, e.LegOpened) and event.run_id == run_id]
    return legs[-1] if legs else None


def answer(decided: Decided) -> c.Reply:
    refused = [event.error for event in decided.events if isinstance(event, e.CommandRefused)]
    if refused:
        return c.refusal(refused[0])
    return _ANSWERS.get(type(decided.command), _done)(decided, decided.command)


def _done(_: Decided, __: c.Command) -> c.Reply:
    return c.Reply(answer=c.DoneAnswer())


def _resume(decided: Decided, command: c.AcceptResume) -> c.Reply:
    known, active = decided.facts.run, decided.after.active
    if active is not None and (known is None or known.run_id == active.run_id):
        run_id, leg = active.run_id, active.leg
    elif known is not None:
        run_id, leg = known.run_id, known.leg
    else:  # refused before this is asked
        run_id, leg = run_uuid(command.user_id, command.leg_run_id), 1
    leg = known.digests.get((command.leg_run_id, command.digest), leg) if known else leg
    status, thread, task = _status_after(decided, run_id), decided.after.thread_id, task_id(run_id, leg)
    name = _name_of_leg(decided, command, run_id)
    return c.Reply(answer=c.RunAnswer(run_id=name, thread_id=thread, task_id=task, status=status, leg=leg))


def _name_of_leg(decided: Decided, command: c.AcceptResume, run_id: UUID) -> str:
    """The runId that was asked for, or, when it opened no leg because the answers were known, one that the run has."""
    known, active = decided.facts.run, decided.after.active
    opened = any(isinstance(event, e.LegOpened) for event in decided.events)
    if opened or known is None or any(used == command.leg_run_id for used, _ in known.digests):
        return command.leg_run_id
    return active.leg_run_id if active is not None and active.run_id == run_id else known.client_run_id


def _run(decided: Decided, command: c.AcceptRun | c.CancelRun) -> c.Reply:
    known = decided.facts.run
    run = known.run_id if known else run_uuid(command.user_id, command.run_id)
    leg = opened_leg(decided, run) or (known.leg if known else 1)
    if known and isinstance(command, c.AcceptRun):
        leg = known.digests.get((command.run_id, command.digest), leg)
    thread = decided.after.thread_id
    status = _status_after(decided, run)
    return c.Reply(
        answer=c.RunAnswer(run_id=command.run_id, thread_id=thread, task_id=task_id(run, leg), status=status, leg=leg)
    )


def _status_after(decided: Decided, run_id: Any) -> RunStatus:
    active, known = decided.after.active, decided.facts.run
    if active is not None and active.run_id == run_id:
        return active.status
    ended = [event.status for event in decided.events if isinstance(event, e.RunEnded) and event.run_id == run_id]
    if ended:
        return ended[0]
    return known.status if known else RunStatus.QUEUED


def _start(decided: Decided, command: c.StartRun) -> c.Reply:
    run, known = decided.after.active, decided.facts.attempt
    if run is None or run.attempt_id != command.attempt_id:
        return c.refusal(NotRunnable())
    number = known.number if known else decided.facts.attempts + 1
    opening = known.opening if known else _opening(decided.events)
    begun = bool(command.steps) and all(step.key in run.open_steps for step in command.steps)
    return c.Reply(
        answer=c.StartAnswer(
            epoch=decided.after.epoch,
            attempt=number,
            leg=run.leg,
            opening=opening,
            deadline=run.deadline,
            begun=begun,
        )
    )


def _opening(events: Sequence[e.Event]) -> Any:
    return [event.batch for event in events if isinstance(event, e.EventsCommitted)][-1]


def _step(decided: Decided, command: c.AttemptCommand) -> c.Reply:
    after = decided.after
    committed = after.log_seq if after.log_epoch == command.epoch else 0
    held = after.active is not None and after.active.run_id == command.run_id
    cancelling = held and after.active is not None and after.active.status is RunStatus.CANCELLING
    return c.Reply(answer=c.StepAnswer(committed_seq=committed, cancelling=cancelling))


_ANSWERS: dict[type, Callable[[Decided, Any], c.Reply]] = {
    c.AcceptRun: _run,
    c.CancelRun: _run,
    c.AcceptResume: _resume,
    c.StartRun: _start,
    c.BeginStep: _step,
    c.RecordStep: _step,
    c.AppendEvents: _step,
    c.ReleaseRun: _step,
    c.RequestTools: _step,
    c.FinishRun: _step,
}
