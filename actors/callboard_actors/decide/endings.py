"""How a run ends or loses its worker: taking the epoch, closing what is open, and giving the turn to the next run."""

from __future__ import annotations

from decimal import Decimal

from callboard_actors.decide.turn import Turn
from callboard_runtime.agui import run_events
from callboard_runtime.domain import events as e
from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import ActiveRun, OpenStep, RunStatus
from callboard_runtime.domain.usage import CallUsage


def terminal(run: ActiveRun, thread_id: str, end: e.RunEnded) -> AguiEvent:
    """The event that ends a run with the status that its row will have."""
    if end.status is RunStatus.FAILED:
        return run_events.run_error(end.error_message or "The run failed.", end.error_code or "FAILED", run.leg_usage)
    outcome = {"type": "cancelled" if end.status is RunStatus.CANCELLED else "success"}
    return run_events.run_finished(thread_id, run.leg_run_id, outcome, run.leg_usage)


def adopt_tail(turn: Turn) -> None:
    """Commit what the open attempt showed and never committed, and give up its begun steps."""
    run, takeover = turn.active, turn.facts.takeover
    if run.attempt_id is None:
        return
    if takeover.tail is not None:
        turn.commit_events(takeover.tail)
    lose_open_steps(turn, sum(len(text) for text in takeover.open.texts.values()))
    turn.say(e.AttemptEnded(run.attempt_id, e.SUPERSEDED))


def lose_open_steps(turn: Turn, shown_characters: int = 0) -> None:
    """Close begun, unrecorded steps; what was shown of an answer is charged to the last model call."""
    run, epoch = turn.active, turn.snapshot.epoch
    models = [key for key, step in run.open_steps.items() if step.kind == "model"]
    for key, step in run.open_steps.items():
        shown = shown_characters if models and key == models[-1] else 0
        turn.say(e.StepLost(run.run_id, epoch, key, step.kind, estimated_usage(step, shown)))


def estimated_usage(step: OpenStep, shown_characters: int) -> CallUsage | None:
    """What a model call that was never recorded cost at least: its input, and the text that it had shown."""
    if step.kind != "model":
        return None
    output_tokens = (shown_characters + 3) // 4
    cost = None
    if step.input_price is not None and step.output_price is not None:
        cost = step.input_tokens * Decimal(step.input_price) + output_tokens * Decimal(step.output_price)
    return CallUsage(
        provider=step.provider,
        model=step.model,
        input_tokens=step.input_tokens,
        output_tokens=output_tokens,
        cost=cost,
        estimated=True,
    )


def end_by_force(turn: Turn, end: e.RunEnded, *, withdraw: bool = False) -> None:
    """End the active run without its worker; what it has shown is closed under an epoch of the actor's own."""
    run = turn.active
    if not run.leg_started and run.leg == 1:
        turn.say(e.ReadersPoked(run.run_id))
        finish(turn, end, withdraw=withdraw)
        return
    takeover = turn.facts.takeover
    opening = takeover.open.closings()
    if run.status is RunStatus.AWAITING_INPUT:
        # the paused leg has its end already: the run's terminal is a leg of its own
        turn.say(e.LegOpened(run.run_id, run.leg + 1, run.leg_run_id, "", None))
    adopt_tail(turn)
    if not turn.active.leg_started:
        opening = [run_events.run_started(turn.snapshot.thread_id, turn.active.leg_run_id)]
    turn.say(e.EpochTaken(run.run_id, turn.active.leg, turn.snapshot.epoch + 1))
    keep_shown_text(turn)
    last = terminal(turn.active, turn.snapshot.thread_id, end)
    turn.commit_events(turn.number([*opening, last]), closing=True, publish=True)
    finish(turn, end, withdraw=withdraw)


def keep_shown_text(turn: Turn) -> None:
    """Make messages of the texts that were shown and never recorded."""
    shown = turn.facts.takeover.open.texts
    partial = tuple(NewMessage(message_id=i, role="assistant", content=text) for i, text in shown.items() if text)
    turn.append_messages(turn.active, partial)


def finish(turn: Turn, end: e.RunEnded, *, withdraw: bool = False) -> None:
    """The active run is over; the next one in the queue has the turn."""
    run = turn.active
    if run.withdraw or withdraw:
        turn.say(e.MessagesWithdrawn(run.run_id))
    turn.say(end)
    activate_next(turn)


def activate_next(turn: Turn, given: RunInput | None = None) -> None:
    """Give a free turn to the head of the queue; its messages, `given` or read before, join the conversation now."""
    if turn.snapshot.active is not None or not turn.snapshot.queue:
        return
    run = turn.snapshot.queue[0]
    given = given or turn.facts.next_input
    # Clients that keep no state send an empty one: that must not wipe the session's.
    state = given.state if given and given.state not in (None, {}) else turn.snapshot.shared_state
    turn.say(e.RunActivated(run, turn.facts.now + turn.facts.policy.start_deadline, state))
    turn.append_messages(turn.active, given.messages if given else ())
    turn.say(e.RunDispatched(run.run_id, 1))
