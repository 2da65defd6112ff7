"""From a parsed request to the actor's answer.

In:  a RunRequest, or answers to a pause, of an authenticated user.
Out: the RunAnswer that the session's actor committed before it replied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import orjson

from callboard_http.auth import Principal
from callboard_http.records import Records
from callboard_http.run_request import Json, Message, ResumeEntry, RunRequest
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import (
    AcceptResume,
    AcceptRun,
    Answer,
    CancelRun,
    ClientCommand,
    RunAnswer,
    ToolAnswer,
)
from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.errors import CallboardError, RunIdConflict, ToolResultMismatch

REMEMBERED_PAUSES = 8  # closing events of a run that are searched for an interrupt's tool call


@dataclass(frozen=True, slots=True)
class OpenCalls:
    """What a session's pauses asked for: the call behind each interrupt, and which calls are approvals."""

    by_interrupt: Mapping[str, str]
    approvals: frozenset[str]


class Acceptance:
    """Sends clients' commands; waits `timeout` seconds at most, after which nothing is accepted any more."""

    def __init__(self, commands: CommandClient, records: Records, timeout: float) -> None:
        self._commands, self._records, self._timeout = commands, records, timeout

    async def run(self, principal: Principal, request: RunRequest) -> RunAnswer:
        """Accept a run, or the answers that the request brings. Raises what the actor refused it with."""
        if request.answers:
            return await self._answers(principal, request)
        session_id = session_uuid(principal.user_id, request.thread_id)
        shown = [message.message_id for message in request.user_messages]
        known = await self._records.known_messages(session_id, shown) if shown else set[str]()
        return await self._send(
            AcceptRun(
                session_id=session_id,
                user_id=principal.user_id,
                thread_id=request.thread_id,
                run_id=request.run_id,
                agent_id=request.agent_id,
                digest=request.digest,
                input=request.with_messages_beyond(known),
                strategy=request.strategy,
                not_after=utcnow() + timedelta(seconds=self._timeout),
            )
        )

    async def resume(
        self,
        principal: Principal,
        session_id: UUID,
        run_id: str,
        leg_run_id: str,
        digest: str,
        answers: Sequence[ToolAnswer],
    ) -> RunAnswer:
        """Answer pending calls of the paused run `run_id`, which goes on as `leg_run_id`."""
        return await self._send(
            AcceptResume(
                session_id=session_id,
                user_id=principal.user_id,
                roles=tuple(sorted(principal.roles)),
                run_id=run_id,
                leg_run_id=leg_run_id,
                digest=digest,
                answers=tuple(answers),
                not_after=utcnow() + timedelta(seconds=self._timeout),
            )
        )

    async def cancel(self, user_id: str, session_id: UUID, run_id: str, reason: str | None) -> RunAnswer:
        """Have the run cancelled; after its end, the answer holds that end."""
        not_after = utcnow() + timedelta(seconds=self._timeout)
        return await self._send(
            CancelRun(session_id=session_id, user_id=user_id, run_id=run_id, reason=reason, not_after=not_after)
        )

    async def open_calls(self, user_id: str, thread_id: str, run_id: UUID | None) -> OpenCalls:
        """What the session waits for now, and what earlier pauses of the run asked for: a repeated answer needs it."""
        state = await self._records.state(user_id, thread_id)
        pending = state.pending_tool_calls if state else ()
        by_interrupt = {call.interrupt_id: call.tool_call_id for call in pending if call.interrupt_id}
        approvals = {c.tool_call_id for c in pending if c.mode is ToolMode.BACKEND_APPROVAL_INTERRUPT}
        session_id = session_uuid(user_id, thread_id)
        lines = await self._records.closing_lines(session_id, run_id, REMEMBERED_PAUSES) if run_id else []
        earlier = {i["id"]: i.get("toolCallId", "") for line in lines for i in _interrupts(line)}
        return OpenCalls(earlier | by_interrupt, frozenset(approvals | {c for c in earlier.values() if c}))

    async def send(self, command: ClientCommand) -> Answer:
        """Send any command within the time that this front waits."""
        return await self._commands.send(command, self._timeout)

    async def _answers(self, principal: Principal, request: RunRequest) -> RunAnswer:
        target, run_id = await self._paused_run(principal.user_id, request)
        open_calls = await self.open_calls(principal.user_id, request.thread_id, run_id)
        answers = [decision(entry, open_calls) for entry in request.resume]
        answers += [tool_result(m) for m in request.tool_answers if m.tool_call_id not in open_calls.approvals]
        if not answers:
            raise ToolResultMismatch("an approval is answered with `resume`, not with a tool message")
        session_id = session_uuid(principal.user_id, request.thread_id)
        return await self.resume(principal, session_id, target, request.run_id, request.digest, answers)

    async def _paused_run(self, user_id: str, request: RunRequest) -> tuple[str, UUID | None]:
        """The run that the answers are for: the one that had this runId, else the one that waits, else the last one."""
        if known := await self._records.run(user_id, request.run_id):
            if known.thread_id != request.thread_id:
                raise RunIdConflict
            return known.client_run_id, known.id
        state = await self._records.state(user_id, request.thread_id)
        if state and state.active and state.active.status is RunStatus.AWAITING_INPUT:
            return state.active.client_run_id, state.active.run_id
        if last := await self._records.last_run(session_uuid(user_id, request.thread_id)):
            return last, None
        raise ToolResultMismatch("this thread has no run that waits for an answer")

    async def _send(self, command: ClientCommand) -> RunAnswer:
        answer = await self.send(command)
        if not isinstance(answer, RunAnswer):
            raise CallboardError(f"{command.type} was answered with {answer.type}")
        return answer


def decision(entry: ResumeEntry, open_calls: OpenCalls) -> ToolAnswer:
    """An interrupt's answer: `{"approved": bool, "editedArgs"?: {…}}`, or `{"outcome": "retry" | "fail"}`."""
    payload = _json_object(entry.payload)
    approved = entry.payload if isinstance(entry.payload, bool) else payload.get("approved")
    return ToolAnswer(
        tool_call_id=open_calls.by_interrupt.get(entry.interrupt_id, ""),
        interrupt_id=entry.interrupt_id,
        status=_status(entry, approved, payload.get("outcome")),
        payload=entry.payload,
        edited_args=_json_object(payload.get("editedArgs")) or None,
    )


def tool_result(message: Message) -> ToolAnswer:
    """A frontend tool's result; a reported failure is a result, too."""
    payload: Any = {"error": message.error} if message.error else message.content
    return ToolAnswer(tool_call_id=message.tool_call_id or "", status="result", payload=payload, message_id=message.id)


def _status(entry: ResumeEntry, approved: Any, outcome: Any) -> Any:
    if entry.status == "cancelled":
        return "cancelled"
    if isinstance(approved, bool):
        return "approved" if approved else "rejected"
    return {"retry": "unknown_retry", "fail": "unknown_fail"}.get(str(outcome), "result")


def _interrupts(line: str) -> list[Json]:
    return _json_object(orjson.loads(line).get("outcome")).get("interrupts") or []


def _json_object(value: Any) -> Json:
    return cast(Json, value) if isinstance(value, dict) else {}
