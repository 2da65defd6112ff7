"""What clients ask of a session: a run, its cancellation, the session's deletion."""

from __future__ import annotations

import orjson

from callboard_actors.decide.endings import activate_next, end_by_force, lose_open_steps
from callboard_actors.decide.turn import Turn
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import AcceptRun, CancelRun, DeleteSession
from callboard_runtime.domain.ids import run_uuid
from callboard_runtime.domain.run_input import MultitaskStrategy
from callboard_runtime.domain.state_snapshot import (
    ENDED,
    OPEN_CALLS,
    QueuedRun,
    RunStatus,
    SessionStatus,
    ToolCallStatus,
)
from callboard_runtime.domain.tool_policy import DELEGATION, check_names
from callboard_runtime.errors import (
    AwaitingInput,
    Gone,
    InvalidInput,
    LimitExceeded,
    NotFound,
    RunIdConflict,
    SessionBusy,
    TooLarge,
    TooLate,
)

Strategy = MultitaskStrategy

TITLE = 80  # characters


def accept_run(turn: Turn, command: AcceptRun) -> None:
    """Give a run the session's turn, or a place in its queue; a repeated one changes nothing."""
    if _is_repeated(turn, command):
        return
    _check_in_time(turn, command)
    _check_session(turn, command)
    if turn.facts.config_error is not None:
        raise turn.facts.config_error
    _check_input(turn, command)
    _make_room(turn, command.strategy)
    _queue_and_activate(turn, command)


def _is_repeated(turn: Turn, command: AcceptRun) -> bool:
    known = turn.facts.run
    if known is None:
        return False
    if known.session_id == command.session_id and (command.run_id, command.digest) in known.digests:
        return True
    raise RunIdConflict(f"run id {command.run_id!r} was used before with another body; take a new run id")


def _check_in_time(turn: Turn, command: AcceptRun | CancelRun | DeleteSession) -> None:
    if turn.facts.now > command.not_after:
        raise TooLate(retry_after=1)


def _check_session(turn: Turn, command: AcceptRun) -> None:
    if turn.snapshot.status is SessionStatus.DELETED:
        raise Gone(f"session {command.thread_id!r} was deleted; its id is not used again")
    if not turn.snapshot.session_id:
        turn.say(e.SessionOpened(command.session_id, command.user_id, command.thread_id, _title(command)))


def _check_input(turn: Turn, command: AcceptRun) -> None:
    """Raises InvalidInput or TooLarge, naming the field."""
    if not command.input.messages and not turn.snapshot.message_count:
        raise InvalidInput("messages: a new session needs at least one user message")
    config = turn.facts.config or {}
    managed = DELEGATION if config.get("process") == "hierarchical" else ()
    check_names(command.input.tools, (*config.get("tools", ()), *managed))
    size, most = len(orjson.dumps(command.input.state)), turn.facts.policy.max_state_bytes
    if size > most:
        raise TooLarge(f"state: has {size} bytes; at most {most} are taken")


def _title(command: AcceptRun) -> str | None:
    said = (message.content for message in command.input.messages if isinstance(message.content, str))
    words = " ".join(next(said, "").split())
    return (words if len(words) <= TITLE else words[: TITLE - 1] + "…") or None


def _make_room(turn: Turn, strategy: Strategy | None) -> None:
    """Apply the multitask strategy to the session's active run, if it has one."""
    run = turn.snapshot.active
    if run is None:
        return
    if strategy is Strategy.REJECT:
        raise SessionBusy
    if strategy in (Strategy.INTERRUPT, Strategy.ROLLBACK):
        request_cancel(turn, withdraw=strategy is Strategy.ROLLBACK)
    elif run.status is RunStatus.AWAITING_INPUT and strategy is None:
        _leave_paused_run(turn)


def _leave_paused_run(turn: Turn) -> None:
    """A conversation that goes on without the browser's results ends the paused run; a human's word is awaited."""
    waiting = [call for call in turn.snapshot.pending_tool_calls if call.status in OPEN_CALLS]
    if any(call.status is not ToolCallStatus.PENDING_RESULT for call in waiting):
        raise AwaitingInput
    end_by_force(turn, e.RunEnded(turn.active.run_id, RunStatus.CANCELLED))


def _queue_and_activate(turn: Turn, command: AcceptRun) -> None:
    if len(turn.snapshot.queue) >= turn.facts.policy.max_queue and turn.snapshot.active is not None:
        raise LimitExceeded(f"{len(turn.snapshot.queue)} runs already wait in this session", retry_after=5)
    run = QueuedRun(
        run_id=run_uuid(command.user_id, command.run_id), client_run_id=command.run_id, agent_id=command.agent_id
    )
    # A front sends what its client shows; only what the session lacks is the run's own.
    news = (message for message in command.input.messages if not turn.has_message(message.message_id))
    given = command.input.but(messages=tuple(news))
    turn.say(e.RunAccepted(run, command.user_id, command.digest, given, turn.facts.config or {}))
    activate_next(turn, given)


def cancel_run(turn: Turn, command: CancelRun) -> None:
    """Cancel a run wherever it stands; an ended one keeps its end."""
    known = turn.facts.run
    if known is None or known.session_id != command.session_id:
        raise NotFound(f"there is no run {command.run_id!r}")
    if known.status in ENDED or known.status is RunStatus.CANCELLING:
        return
    _check_in_time(turn, command)
    details = {"status": known.status, "reason": command.reason}
    turn.say(e.Audited(command.user_id, "run.cancel", known.run_id, command.run_id, details))
    run = turn.snapshot.active
    if run is not None and run.run_id == known.run_id:
        request_cancel(turn)
    elif any(queued.run_id == known.run_id for queued in turn.snapshot.queue):
        turn.say(e.RunDequeued(known.run_id))
        turn.say(e.RunEnded(known.run_id, RunStatus.CANCELLED))
        turn.say(e.ReadersPoked(known.run_id))


def request_cancel(turn: Turn, *, withdraw: bool = False) -> None:
    """Have the worker end the active run soon, or end it here when no worker holds it."""
    run = turn.active
    if run.status is RunStatus.CANCELLING:
        if withdraw and not run.withdraw:
            _withdraw_too(turn)
        return
    if run.attempt_id is None or run.process is None:
        end_by_force(turn, e.RunEnded(run.run_id, RunStatus.CANCELLED), withdraw=withdraw)
        return
    turn.say(e.RunCancelRequested(run.run_id, turn.facts.now + turn.facts.policy.cancel_grace, withdraw))
    turn.say(e.WorkerTold(run.run_id, run.process, turn.snapshot.epoch))


def _withdraw_too(turn: Turn) -> None:
    """Have a run that is being cancelled leave no messages; its worker was told, and gets no more time."""
    run = turn.active
    assert run.cancel_by is not None
    turn.say(e.RunCancelRequested(run.run_id, run.cancel_by, withdraw=True))


def delete_session(turn: Turn, command: DeleteSession) -> None:
    """End every run and forget the content; the id stays taken."""
    if turn.snapshot.status is SessionStatus.DELETED:
        return
    if not turn.snapshot.session_id:
        raise NotFound("there is no such session")
    _check_in_time(turn, command)
    run = turn.snapshot.active
    if run is not None:
        lose_open_steps(turn)  # the provider was asked: the tombstone keeps what that cost
        if run.process is not None:
            turn.say(e.WorkerTold(run.run_id, run.process, turn.snapshot.epoch))
    turn.say(e.SessionDeleted(command.session_id))
    turn.say(e.ReadersPoked(None))
