"""Which answer belongs to which pending tool call: every call gets exactly one, and the same one again is no second."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from callboard_runtime.domain.commands import ToolAnswer
from callboard_runtime.domain.run_input import digest
from callboard_runtime.domain.state_snapshot import OPEN_CALLS, PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_schema import arguments_problem
from callboard_runtime.errors import InvalidInput, ToolResultMismatch

_Status = ToolCallStatus

_MEANS: dict[tuple[ToolCallStatus, str], ToolCallStatus] = {
    (_Status.PENDING_RESULT, "result"): _Status.EXECUTED,
    (_Status.PENDING_RESULT, "cancelled"): _Status.REJECTED,
    (_Status.PENDING_APPROVAL, "approved"): _Status.APPROVED,
    (_Status.PENDING_APPROVAL, "rejected"): _Status.REJECTED,
    (_Status.PENDING_APPROVAL, "cancelled"): _Status.REJECTED,
    (_Status.OUTCOME_UNKNOWN, "retry"): _Status.APPROVED,
    (_Status.OUTCOME_UNKNOWN, "result"): _Status.EXECUTED,
    (_Status.OUTCOME_UNKNOWN, "fail"): _Status.REJECTED,
    (_Status.OUTCOME_UNKNOWN, "cancelled"): _Status.REJECTED,
}
"""What an answer makes of an open call; any other pair does not match."""


class ToolCorrelationError(ToolResultMismatch):
    """This answer matches no open tool call; nothing was changed."""


class PendingToolStore:
    """The calls a run waits for, and those that were settled before; replaced one by one as answers come."""

    def __init__(self, calls: Iterable[PendingToolCall], settled: Iterable[PendingToolCall] = ()) -> None:
        """`settled` are calls of former pauses: their answers may come again, nothing else may."""
        self._calls = {call.tool_call_id: call for call in (*settled, *calls)}

    @property
    def calls(self) -> tuple[PendingToolCall, ...]:
        return tuple(self._calls.values())

    @property
    def is_complete(self) -> bool:
        """Whether no call waits any more."""
        return not any(call.status in OPEN_CALLS for call in self._calls.values())

    def find(self, answer: ToolAnswer) -> PendingToolCall | None:
        """The call that the answer names, by interrupt_id, tool_call_id, or both when they agree."""
        if answer.interrupt_id is None:
            return self._calls.get(answer.tool_call_id or "")
        named = [call for call in self._calls.values() if call.interrupt_id == answer.interrupt_id]
        call = named[-1] if named else None
        return call if call is not None and answer.tool_call_id in (None, call.tool_call_id) else None

    def apply(self, answer: ToolAnswer, *, by: str = "", now: datetime | None = None) -> PendingToolCall | None:
        """The call as `answer` settles it; None when the same answer of the same user settled it before.

        Raises ToolCorrelationError for an unknown, settled or expired call, and for an answer that does not fit it;
        InvalidInput for edited arguments that the tool's schema does not allow.
        """
        call, given = self.find(answer), answer_digest(answer, by)
        if call is None:
            raise ToolCorrelationError(f"no open tool call matches {answer.interrupt_id or answer.tool_call_id!r}")
        if call.answer_digest == given:
            return None
        settled = _settled(call, answer, by, given, now)
        self._calls[call.tool_call_id] = settled
        return settled

    def apply_result(self, *, tool_call_id: str, result: Any, by: str = "") -> PendingToolCall | None:
        """`apply` for the plain result of a frontend tool; raises ToolCorrelationError."""
        return self.apply(ToolAnswer(tool_call_id=tool_call_id, status="result", payload=result), by=by)


def answer_digest(answer: ToolAnswer, by: str) -> str:
    """What makes two answers the same: the user, the decision, its payload and its edited arguments."""
    said = answer.model_dump(mode="json", exclude={"message_id", "tool_call_id", "interrupt_id"})
    return digest({"user": by, "said": said})


def _settled(call: PendingToolCall, answer: ToolAnswer, by: str, given: str, now: datetime | None) -> PendingToolCall:
    if call.status not in OPEN_CALLS:
        who = f"by {call.answered_by}" if call.answered_by else "without an answer"
        raise ToolCorrelationError(f"tool call {call.tool_call_id!r} was already settled {who}: {call.status}")
    if now is not None and call.expires_at is not None and call.expires_at <= now:
        raise ToolCorrelationError(f"tool call {call.tool_call_id!r} has expired")
    status = _MEANS.get((call.status, answer.status))
    if status is None:
        raise ToolCorrelationError(f"{answer.status!r} does not answer {call.tool_call_id!r} ({call.status})")
    if answer.edited_args is not None:
        _check_edited(call, answer.edited_args)
    said = {"status": answer.status, "payload": answer.payload, "editedArgs": answer.edited_args}
    args = answer.edited_args if answer.edited_args is not None else call.args
    return call.but(status=status, args=args, answered_by=by, answer_digest=given, answer=said)


def _check_edited(call: PendingToolCall, edited: Mapping[str, Any]) -> None:
    """An approver's slip must not use up the decision: what cannot be run is not approved."""
    asked: Any = call.response_schema or {}
    schema = asked.get("properties", {}).get("editedArgs")
    if schema is not None and (problem := arguments_problem(schema, edited)) is not None:
        raise InvalidInput(f"edited arguments of {call.tool_call_id!r} ({call.tool_name}): {problem}")
