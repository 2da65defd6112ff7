"""Answers to pending calls: each call gets exactly one; a wrong answer changes nothing and is on record."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from callboard_actors.decide.pauses import resume
from callboard_actors.decide.turn import Turn
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import AcceptResume, ExpireToolCalls, ToolAnswer
from callboard_runtime.domain.run_input import NewMessage, digest
from callboard_runtime.domain.state_snapshot import (
    OPEN_CALLS,
    ActiveRun,
    PendingToolCall,
    RunStatus,
    ToolCallStatus,
)
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import NotFound, NotPendingYet, Refused, RunIdConflict, TooLate, ToolResultMismatch

Status = ToolCallStatus

_MEANS: dict[tuple[ToolCallStatus, str], ToolCallStatus] = {
    (Status.PENDING_RESULT, "result"): Status.EXECUTED,
    (Status.PENDING_RESULT, "cancelled"): Status.REJECTED,
    (Status.PENDING_APPROVAL, "approved"): Status.APPROVED,
    (Status.PENDING_APPROVAL, "rejected"): Status.REJECTED,
    (Status.PENDING_APPROVAL, "cancelled"): Status.REJECTED,
    (Status.OUTCOME_UNKNOWN, "retry"): Status.APPROVED,
    (Status.OUTCOME_UNKNOWN, "result"): Status.EXECUTED,
    (Status.OUTCOME_UNKNOWN, "fail"): Status.REJECTED,
    (Status.OUTCOME_UNKNOWN, "cancelled"): Status.REJECTED,
}
"""What an answer makes of an open call; any other pair does not match."""


def accept_resume(turn: Turn, command: AcceptResume) -> None:
    """Keep the answers; with the last one the run goes on. One wrong answer refuses them all."""
    if not turn.snapshot.session_id:
        raise NotFound("there is no such session")
    if _is_repeated(turn, command):
        return
    try:
        settled = [_match(turn, command, answer) for answer in command.answers]
    except ToolResultMismatch as error:
        _note(turn, command, error)
        return
    if turn.facts.now > command.not_after:
        raise TooLate(retry_after=1)
    for call, answer in zip(settled, command.answers, strict=True):
        if call is not None:
            _settle(turn, call, answer)
    _resume_when_complete(turn, command.leg_run_id, command.digest, any(settled))


def _is_repeated(turn: Turn, command: AcceptResume) -> bool:
    known = turn.facts.run
    if known is None or known.session_id != command.session_id:
        return False
    if (command.leg_run_id, command.digest) in known.digests:
        return True
    ours = turn.snapshot.active is not None and turn.snapshot.active.run_id == known.run_id
    if not ours and any(used == command.leg_run_id for used, _ in known.digests) and command.run_id is None:
        raise RunIdConflict(f"run id {command.leg_run_id!r} was used before with another body; take a new run id")
    return False


def _match(turn: Turn, command: AcceptResume, answer: ToolAnswer) -> PendingToolCall | None:
    """The call as this answer settles it; None when the same answer settled it before."""
    run, given = turn.snapshot.active, _digest(command, answer)
    call = _find(turn, answer)
    if call is not None and call.answer_digest == given:
        return None
    if call is None and run is not None and run.status is RunStatus.RUNNING and _may_be_ours(turn, command, run):
        raise NotPendingYet(retry_after=1)
    if call is None or run is None or run.status is not RunStatus.AWAITING_INPUT:
        raise ToolResultMismatch(f"no open tool call matches {answer.tool_call_id or answer.interrupt_id!r}")
    if call.status not in OPEN_CALLS:
        who = call.answered_by or "expiry"
        raise ToolResultMismatch(f"tool call {call.tool_call_id!r} was already settled by {who}: {call.status}")
    if not _may_be_ours(turn, command, run):
        raise ToolResultMismatch(f"run {command.run_id!r} has no open tool call {call.tool_call_id!r}")
    return _answered(turn, command, answer, call, given)


def _may_be_ours(turn: Turn, command: AcceptResume, run: ActiveRun) -> bool:
    known = turn.facts.run
    return command.run_id is None or (known is not None and known.run_id == run.run_id)


def _find(turn: Turn, answer: ToolAnswer) -> PendingToolCall | None:
    calls = {call.tool_call_id: call for call in turn.snapshot.pending_tool_calls}
    by_interrupt = {call.interrupt_id: call for call in calls.values() if call.interrupt_id}
    if answer.interrupt_id is not None:
        call = by_interrupt.get(answer.interrupt_id)
        if call is not None and answer.tool_call_id in (None, call.tool_call_id):
            return call
        return _settled_interrupt(turn, answer)
    known = {**turn.facts.settled, **calls}
    return known.get(answer.tool_call_id or "")


def _settled_interrupt(turn: Turn, answer: ToolAnswer) -> PendingToolCall | None:
    settled = [call for call in turn.facts.settled.values() if call.interrupt_id == answer.interrupt_id]
    return settled[0] if settled else None


def _answered(
    turn: Turn, command: AcceptResume, answer: ToolAnswer, call: PendingToolCall, given: str
) -> PendingToolCall:
    status = _MEANS.get((call.status, answer.status))
    if status is None:
        raise ToolResultMismatch(f"{answer.status!r} does not answer tool call {call.tool_call_id!r} ({call.status})")
    if call.expires_at is not None and call.expires_at <= turn.facts.now:
        raise ToolResultMismatch(f"tool call {call.tool_call_id!r} has expired")
    if call.status is not Status.PENDING_RESULT:
        _check_approver(turn, command)
    payload = {"status": answer.status, "payload": answer.payload, "editedArgs": answer.edited_args}
    args = answer.edited_args if answer.edited_args is not None else call.args
    return call.but(status=status, args=args, answered_by=command.user_id, answer_digest=given, answer=payload)


def _check_approver(turn: Turn, command: AcceptResume) -> None:
    policy = turn.facts.policy
    if policy.approver_roles and not policy.approver_roles & set(command.roles):
        raise ToolResultMismatch("this decision needs one of the roles " + ", ".join(sorted(policy.approver_roles)))
    if policy.approver_not_requester and command.user_id == turn.snapshot.user_id:
        raise ToolResultMismatch("somebody other than the requester must decide this")


def _digest(command: AcceptResume, answer: ToolAnswer) -> str:
    said = answer.model_dump(mode="json", exclude={"message_id", "tool_call_id", "interrupt_id"})
    return digest({"user": command.user_id, "said": said})


def _settle(turn: Turn, call: PendingToolCall, answer: ToolAnswer) -> None:
    """Keep the answer. The browser's result is a message at once; a backend tool's comes from the worker."""
    turn.say(e.ToolCallSettled(turn.active.run_id, call))
    if call.mode is ToolMode.FRONTEND_EXECUTE:
        turn.append_messages(turn.active, (_tool_message(call, answer),))
    else:
        who, action = call.answered_by or "", f"tool_call.{call.status.lower()}"
        _audit(turn, who, action, call.tool_call_id, {"tool": call.tool_name})


def _tool_message(call: PendingToolCall, answer: ToolAnswer | None) -> NewMessage:
    """Every tool call of the conversation has its message, also one that was not run."""
    payload = answer.payload if answer and call.status is Status.EXECUTED else f"Error: {call.status.lower()}, not run"
    content = payload if isinstance(payload, str) else orjson.dumps(payload).decode()
    name = (answer.message_id if answer else None) or f"tool-{call.tool_call_id}"
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
    """Settle the calls whose time is over; the run goes on without their results."""
    run, now = turn.snapshot.active, turn.facts.now
    if run is None or run.status is not RunStatus.AWAITING_INPUT:
        return
    due = [call for call in turn.snapshot.pending_tool_calls if _is_due(call, now)]
    for call in due:
        expired = call.but(status=Status.EXPIRED, answer={"status": "expired"})
        turn.say(e.ToolCallSettled(run.run_id, expired))
        if call.mode is ToolMode.FRONTEND_EXECUTE:
            turn.append_messages(run, (_tool_message(expired, None),))
        _audit(turn, "sweeper", "tool_call.expired", call.tool_call_id, {"tool": call.tool_name})
    _resume_when_complete(turn, run.leg_run_id, "", bool(due))


def _is_due(call: PendingToolCall, now: datetime) -> bool:
    return call.status in OPEN_CALLS and call.expires_at is not None and call.expires_at <= now
