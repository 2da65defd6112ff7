"""What the sweeper found: dead attempts and passed deadlines. The actor looks again before it believes."""

from __future__ import annotations

from callboard_actors.decide.endings import end_by_force
from callboard_actors.decide.turn import Turn
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import EnforceDeadline, FailRun, PruneSession, ReapAttempt
from callboard_runtime.domain.state_snapshot import RunStatus, SessionStatus


def reap_attempt(turn: Turn, command: ReapAttempt) -> None:
    """Wake a worker for a run whose process is gone; a run that was being cancelled ends here."""
    run = turn.snapshot.active
    if run is None or run.attempt_id != command.attempt_id or turn.facts.attempt_alive:
        return
    if run.status is RunStatus.CANCELLING:
        end_by_force(turn, e.RunEnded(run.run_id, RunStatus.CANCELLED))
    else:
        turn.say(e.RunDispatched(run.run_id, run.leg))


def enforce_deadline(turn: Turn, command: EnforceDeadline) -> None:
    run, now = turn.snapshot.active, turn.facts.now
    if run is None or run.run_id != command.run_id or run.status is RunStatus.AWAITING_INPUT:
        return
    if run.cancel_by is not None and run.cancel_by <= now:
        end_by_force(turn, e.RunEnded(run.run_id, RunStatus.CANCELLED))
    elif run.deadline is not None and run.deadline <= now:
        why = "The run took longer than it may." if run.leg_started else "No worker took the run in time."
        end_by_force(turn, e.RunEnded(run.run_id, RunStatus.FAILED, "RUN_DEADLINE", why))


def fail_run(turn: Turn, command: FailRun) -> None:
    """End the active run, so that the session goes on."""
    run = turn.snapshot.active
    if run is not None:
        end_by_force(turn, e.RunEnded(run.run_id, RunStatus.FAILED, command.error_code, command.error_message))


def prune_session(turn: Turn, command: PruneSession) -> None:
    """Forget what is old; the commit spares whatever belongs to a run that has not ended."""
    if turn.snapshot.session_id and turn.snapshot.status is not SessionStatus.DELETED:
        limits = (command.events_before, command.journals_before, command.runs_before)
        turn.say(e.SessionPruned(command.session_id, *limits))
