"""What workers ask of a session: the epoch, steps, records, and the end of their attempt."""

from __future__ import annotations

from callboard_actors.decide.endings import adopt_tail, end_by_force, finish, lose_open_steps, terminal
from callboard_actors.decide.turn import Turn
from callboard_runtime.agui import run_events
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import (
    AppendEvents,
    AttemptCommand,
    BeginStep,
    FinishRun,
    RecordStep,
    ReleaseRun,
    StartRun,
    StepRecord,
)
from callboard_runtime.domain.event_batch import AguiEvent, EventBatch
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import RunStatus, StateSnapshot
from callboard_runtime.errors import AttemptAlive, InvalidInput, NotRunnable, StaleEpoch


def start_run(turn: Turn, command: StartRun) -> None:
    """Give a task execution the session's next epoch, once per attempt_id; adopt what a dead attempt has shown."""
    run = turn.snapshot.active
    if turn.facts.attempt is not None:
        if run is None or run.attempt_id != command.attempt_id:
            raise NotRunnable("this attempt was superseded or is over")
        return
    if run is None or run.run_id != command.run_id or run.leg != command.leg:
        raise NotRunnable
    if run.status not in (RunStatus.QUEUED, RunStatus.RUNNING):
        raise NotRunnable
    if run.attempt_id is not None and turn.facts.attempt_alive:
        raise AttemptAlive
    if run.attempts_without_progress >= turn.facts.policy.max_attempts:
        _exhaust(turn)
        return
    _grant(turn, command)


def _exhaust(turn: Turn) -> None:
    run = turn.active
    why = f"The run was tried {run.attempts_without_progress} times without getting any further."
    end_by_force(turn, e.RunEnded(run.run_id, RunStatus.FAILED, "ATTEMPTS_EXHAUSTED", why))


def _grant(turn: Turn, command: StartRun) -> None:
    run = turn.active
    adopt_tail(turn)
    # a further attempt at a leg does not get more time
    deadline = (run.leg_started and run.deadline) or turn.facts.now + turn.facts.policy.deadline
    epoch = turn.snapshot.epoch + 1
    turn.say(e.AttemptStarted(run.run_id, run.leg, command.attempt_id, command.process, epoch, deadline))
    opening = _reopening(turn) if run.leg_started else _clean_opening(turn)
    turn.commit_events(turn.number(opening))
    if command.steps and not turn.facts.attempts:
        turn.say(e.StepsBegun(run.run_id, epoch, command.steps))


def _clean_opening(turn: Turn) -> list[AguiEvent]:
    run, given = turn.active, turn.facts.input
    messages = given.messages if given and run.leg == 1 else ()
    opening = [run_events.run_started(turn.snapshot.thread_id, run.leg_run_id, messages)]
    if run.leg > 1:  # the answers joined the conversation while nobody streamed
        opening.append(run_events.messages_snapshot(turn.facts.takeover.transcript))
    state = turn.snapshot.shared_state
    return opening if state is None else [*opening, run_events.state_snapshot(state)]


def _reopening(turn: Turn) -> list[AguiEvent]:
    """A dead attempt showed more than was recorded: close it, and say what really stands."""
    return [
        *turn.facts.takeover.open.closings(),
        run_events.messages_snapshot(turn.facts.takeover.transcript),
        run_events.state_snapshot(turn.snapshot.shared_state),
    ]


def is_repeated(snapshot: StateSnapshot, command: AttemptCommand) -> bool:
    """Whether this worker command took effect before; raises StaleEpoch when its attempt no longer holds the run."""
    if command.epoch == snapshot.closed_epoch and command.ordinal <= snapshot.closed_ordinal:
        return True
    run = snapshot.active
    holds = run is not None and run.run_id == command.run_id and run.attempt_id is not None
    if run is None or not holds or command.epoch != snapshot.epoch:
        raise StaleEpoch
    if command.ordinal > run.last_ordinal + 1:
        raise InvalidInput(f"ordinal: {command.ordinal} came where {run.last_ordinal + 1} was due")
    return command.ordinal <= run.last_ordinal


def begin_step(turn: Turn, command: BeginStep) -> None:
    """Grant steps, unless the run is being cancelled; what travels along counts in both cases."""
    if is_repeated(turn.snapshot, command):
        return
    apply_work(turn, command, command.records, command.messages)
    if turn.active.status is not RunStatus.CANCELLING:
        turn.say(e.StepsBegun(command.run_id, command.epoch, command.steps))


def record_step(turn: Turn, command: RecordStep) -> None:
    """Keep what steps came to, with the shared state as they left it."""
    if is_repeated(turn.snapshot, command):
        return
    apply_work(turn, command, command.records, command.messages)
    if command.state is not None:
        turn.say(e.StateChanged(command.state))


def append_events(turn: Turn, command: AppendEvents) -> None:
    if not is_repeated(turn.snapshot, command):
        apply_work(turn, command)


def apply_work(
    turn: Turn,
    command: AttemptCommand,
    records: tuple[StepRecord, ...] = (),
    messages: tuple[NewMessage, ...] = (),
) -> None:
    turn.say(e.CommandApplied(command.ordinal))
    if command.events is not None:
        turn.commit_events(_next_in_log(turn, command.events))
    open_records = tuple(record for record in records if record.key in turn.active.open_steps)
    if open_records:
        turn.say(e.StepsRecorded(command.run_id, command.epoch, open_records))
    turn.append_messages(turn.active, messages)


def _next_in_log(turn: Turn, events: EventBatch) -> EventBatch:
    """What of a worker's events the log lacks; a hole in them is the worker's bug."""
    s = turn.snapshot
    if events.epoch != s.epoch or events.first_seq > s.log_seq + 1:
        raise InvalidInput(f"events: {events.epoch}-{events.first_seq} does not follow {s.log_position}")
    return events.after(s.log_seq)


def release_run(turn: Turn, command: ReleaseRun) -> None:
    """Take the run back from a worker that shuts down, and wake another one at once."""
    if is_repeated(turn.snapshot, command):
        return
    apply_work(turn, command, command.records, command.messages)
    run = turn.active
    if run.status is RunStatus.CANCELLING:
        close_run(turn, e.RunEnded(run.run_id, RunStatus.CANCELLED))
        return
    assert run.attempt_id is not None
    lose_open_steps(turn)
    turn.say(e.AttemptEnded(run.attempt_id, "released"))
    turn.say(e.RunDispatched(run.run_id, run.leg))


def finish_run(turn: Turn, command: FinishRun) -> None:
    """End the run as its worker says, or as cancelled when that was asked before."""
    if is_repeated(turn.snapshot, command):
        return
    apply_work(turn, command, command.records, command.messages)
    close_run(turn, _end_of(turn, command))


def _end_of(turn: Turn, command: FinishRun) -> e.RunEnded:
    if turn.active.status is RunStatus.CANCELLING:
        return e.RunEnded(command.run_id, RunStatus.CANCELLED)
    return e.RunEnded(command.run_id, RunStatus(command.status), command.error_code, command.error_message)


def close_run(turn: Turn, end: e.RunEnded) -> None:
    """Write the terminal behind what the worker sent, and let the run go."""
    lose_open_steps(turn)
    run = turn.active
    assert run.attempt_id is not None
    closing = turn.number([terminal(run, turn.snapshot.thread_id, end)])
    turn.commit_events(closing, closing=True, publish=True)
    turn.say(e.AttemptEnded(run.attempt_id, "finished"))
    finish(turn, end)
