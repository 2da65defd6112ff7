"""How a run pauses: its pending calls, the closing of its leg and the interrupt become durable together."""

from __future__ import annotations

from callboard_actors.decide.attempts import apply_work, close_run, is_repeated
from callboard_actors.decide.endings import lose_open_steps
from callboard_actors.decide.turn import Turn
from callboard_runtime.agui import run_events
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import RequestTools
from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.domain.state_snapshot import ActiveRun, PendingToolCall, RunStatus


def request_tools(turn: Turn, command: RequestTools) -> None:
    """Pause the run for calls that others must answer; a run that is being cancelled ends instead."""
    if is_repeated(turn.snapshot, command):
        return
    apply_work(turn, command, command.records, command.messages)
    if command.state is not None:
        turn.say(e.StateChanged(command.state))
    if turn.active.status is RunStatus.CANCELLING:
        close_run(turn, e.RunEnded(command.run_id, RunStatus.CANCELLED))
        return
    _pause(turn, tuple(_opened(turn, call) for call in command.calls))


def _opened(turn: Turn, call: PendingToolCall) -> PendingToolCall:
    now = turn.facts.now
    expires = call.expires_at or now + turn.facts.policy.tool_call_ttl
    return call.but(run_id=str(turn.active.run_id), requested_at=now, expires_at=expires)


def _pause(turn: Turn, calls: tuple[PendingToolCall, ...]) -> None:
    lose_open_steps(turn)
    run = turn.active
    assert run.attempt_id is not None
    finished = run_events.run_finished(
        turn.snapshot.thread_id, run.leg_run_id, run_events.pause_outcome(calls), run.leg_usage
    )
    closing = turn.number([*_state(turn), finished])
    turn.commit_events(closing, closing=True, publish=True)
    turn.say(e.AttemptEnded(run.attempt_id, "paused"))
    turn.say(e.ToolsRequested(run.run_id, calls))


def _state(turn: Turn) -> list[AguiEvent]:
    """A client keeps the state over the pause: what it has must be what the resumed run begins with."""
    state = turn.snapshot.shared_state
    return [] if state is None else [run_events.state_snapshot(state)]


def resume(turn: Turn, run: ActiveRun, leg_run_id: str, digest: str) -> None:
    """Every call has its answer: the run goes on in a new leg."""
    deadline = turn.facts.now + turn.facts.policy.start_deadline
    turn.say(e.LegOpened(run.run_id, run.leg + 1, leg_run_id, digest, deadline))
    turn.say(e.RunDispatched(run.run_id, run.leg + 1))
