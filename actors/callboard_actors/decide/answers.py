"""Answers to pending calls: each call gets exactly one; a wrong answer changes nothing and is on record."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from callboard_actors.decide.endings import end_by_force
from callboard_actors.decide.pauses import resume
from callboard_actors.decide.turn import Turn
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import AcceptResume, ExpireToolCalls, ToolAnswer
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import (
    OPEN_CALLS,
    ActiveRun,
    PendingToolCall,
    RunStatus,
    ToolCallStatus,
)
from callboard_runtime.domain.tool_correlation import PendingToolStore, ToolCorrelationError
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import NotFound, NotPendingYet, Refused, RunIdConflict, TooLate, ToolResultMismatch

Status = ToolCallStatus


def accept_resume(turn: Turn, command: AcceptResume) -> None:
    """Keep the answers; with the last one the run goes on. One wrong answer refuses them all."""
    if not turn.snapshot.session_id:
        raise NotFound("there is no such session")
    if _is_repeated(turn, command):
        return
    store = PendingToolStore(turn.snapshot.pending_tool_calls, turn.facts.settled.values())
    try:
        settled = [_match(turn, command, store, answer) for answer in command.answers]
    except ToolResultMismatch as error:
        _note(turn, command, error)
        return
    if any(settled):
        _check_new(turn, command)
    for call, answer in zip(settled, command.answers, strict=True):
        if call is not None:
            _settle(turn, call, answer)
    _resume_when_complete(turn, command.leg_run_id, command.digest, any(settled))


def _is_repeated(turn: Turn, command: AcceptResume) -> bool:
    known = turn.facts.run
    if known is None or known.session_id != command.session_id:
        return False
    return (command.leg_run_id, command.digest) in known.digests


def _check_new(turn: Turn, command: AcceptResume) -> None:
    """What changes something comes in time, and under a runId of the paused run or under a new one."""
    if turn.facts.now > command.not_after:
        raise TooLate(retry_after=1)
    known = turn.facts.run
    if known is None or known.run_id == turn.active.run_id or command.run_id is not None:
        return
    if any(used == command.leg_run_id for used, _ in known.digests):
        raise RunIdConflict(f"run id {command.leg_run_id!r} was used before with another body; take a new run id")


def _match(turn: Turn, command: AcceptResume, store: PendingToolStore, answer: ToolAnswer) -> PendingToolCall | None:
    """The call as this answer settles it; None when the same answer settled it before."""
    run, found = turn.snapshot.active, store.find(answer)
    if found is None and run is not None and run.status is RunStatus.RUNNING and _is_meant(turn, command, run):
        raise NotPendingYet(retry_after=1)
    call = store.apply(answer, by=command.user_id, now=turn.facts.now)
    if call is None:
        return None
    if run is None or run.status is not RunStatus.AWAITING_INPUT or not _is_meant(turn, command, run):
        raise ToolCorrelationError(f"run {command.run_id!r} does not wait for tool call {call.tool_call_id!r}")
    if call.mode is not ToolMode.FRONTEND_EXECUTE:
        _check_approver(turn, command)
    return call


def _is_meant(turn: Turn, command: AcceptResume, run: ActiveRun) -> bool:
    known = turn.facts.run
    return command.run_id is None or (known is not None and known.run_id == run.run_id)


def _check_approver(turn: Turn, command: AcceptResume) -> None:
    policy = turn.facts.policy
    if policy.approver_roles and not policy.approver_roles & set(command.roles):
        raise ToolCorrelationError("this decision needs one of the roles " + ", ".join(sorted(policy.approver_roles)))
    if policy.approver_not_requester and command.user_id == turn.snapshot.user_id:
        raise ToolCorrelationError("somebody other than the requester must decide this")


def _settle(turn: Turn, call: PendingToolCall, answer: ToolAnswer) -> None:
    """Keep the answer. The browser's result is a message at once; a backend tool's comes from the worker."""
    turn.say(e.ToolCallSettled(turn.active.run_id, call))
    if call.mode is ToolMode.FRONTEND_EXECUTE:
        turn.append_messages(turn.active, (_tool_message(turn, call, answer),))
    else:
        who, action = call.answered_by or "", f"tool_call.{call.status.lower()}"
        _audit(turn, who, action, call.tool_call_id, {"tool": call.tool_name})


def _tool_message(turn: Turn, call: PendingToolCall, answer: ToolAnswer | None) -> NewMessage:
    """Every tool call of the conversation has its message, also one that was not run, or whose client's id is taken."""
    payload = answer.payload if answer and call.status is Status.EXECUTED else f"Error: {call.status.lower()}, not run"
    content = payload if isinstance(payload, str) else orjson.dumps(payload).decode()
    asked = answer.message_id if answer else None
    name = asked if asked and not turn.has_message(asked) else f"tool-{call.tool_call_id}"
    return NewMessage(message_id=name, role="tool", content=content, tool_call_id=call.tool_call_id)


def _resume_when_complete(turn: Turn, leg_run_id: str, given: str, changed: bool) -> None:
    waiting = any(call.status in OPEN_CALLS for call in turn.snapshot.pending_tool_calls)
    if changed and not waiting:
        resume(turn, turn.active, leg_run_id, given)


def _note(turn: Turn, command: AcceptResume, error: Refused) -> None:
    subjects = ", ".join(str(answer.tool_call_id or answer.interrupt_id) for answer in command.answers)
    _audit(turn, command.user_id, "tool_result.refused", subjects, {"code": error.code, "reason": error.message})
    turn.say(e.CommandRefused(error))


def _audit(turn: Turn, who: str, action: str, subject: str, details: dict[str, Any]) -> None:
    run = turn.snapshot.active
    turn.say(e.Audited(who, action, run.run_id if run else None, subject, details))


def expire_tool_calls(turn: Turn, _: ExpireToolCalls) -> None:
    """Settle the calls whose time is over; the run goes on without their results, or fails, as configured."""
    run, now = turn.snapshot.active, turn.facts.now
    if run is None or run.status is not RunStatus.AWAITING_INPUT:
        return
    due = [call for call in turn.snapshot.pending_tool_calls if _is_due(call, now)]
    for call in due:
        expired = call.but(status=Status.EXPIRED, answer={"status": "expired"})
        turn.say(e.ToolCallSettled(run.run_id, expired))
        if call.mode is ToolMode.FRONTEND_EXECUTE:
            turn.append_messages(run, (_tool_message(turn, expired, None),))
        _audit(turn, "sweeper", "tool_call.expired", call.tool_call_id, {"tool": call.tool_name})
    if due and turn.facts.policy.fail_on_expiry:
        names = ", ".join(call.tool_name for call in due)
        why = f"Nobody answered in time: {names}."
        end_by_force(turn, e.RunEnded(run.run_id, RunStatus.FAILED, "TOOL_CALL_EXPIRED", why))
        return
    _resume_when_complete(turn, run.leg_run_id, "", bool(due))


def _is_due(call: PendingToolCall, now: datetime) -> bool:
    return call.status in OPEN_CALLS and call.expires_at is not None and call.expires_at <= now
