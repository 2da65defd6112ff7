"""`decide(snapshot, command, facts)`: what a command makes happen. Pure: all rules of concurrency are here, and no I/O.

A repeated command decides nothing and is answered again; one that cannot be carried out raises a `Refused`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from callboard_actors.decide import answers, attempts, clients, pauses, sweeps
from callboard_actors.decide.turn import Turn
from callboard_actors.facts import Facts
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.state_snapshot import StateSnapshot

HANDLERS: dict[type, Callable[[Turn, Any], None]] = {
    c.AcceptRun: clients.accept_run,
    c.CancelRun: clients.cancel_run,
    c.DeleteSession: clients.delete_session,
    c.StartRun: attempts.start_run,
    c.BeginStep: attempts.begin_step,
    c.RecordStep: attempts.record_step,
    c.AppendEvents: attempts.append_events,
    c.ReleaseRun: attempts.release_run,
    c.FinishRun: attempts.finish_run,
    c.RequestTools: pauses.request_tools,
    c.AcceptResume: answers.accept_resume,
    c.ExpireToolCalls: answers.expire_tool_calls,
    c.ReapAttempt: sweeps.reap_attempt,
    c.EnforceDeadline: sweeps.enforce_deadline,
    c.FailRun: sweeps.fail_run,
    c.PruneSession: sweeps.prune_session,
}


def decide(snapshot: StateSnapshot, command: c.Command, facts: Facts) -> list[e.Event]:
    """The events of `command`, in order; raises Refused (with its subclasses) when it changes nothing."""
    return take_turn(snapshot, command, facts).events


def take_turn(snapshot: StateSnapshot, command: c.Command, facts: Facts) -> Turn:
    """The same, with the snapshot that the events lead to."""
    turn = Turn(snapshot, facts)
    HANDLERS[type(command)](turn, command)
    return turn
