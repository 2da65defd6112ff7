"""From a parsed request to the actor's answer.

In:  a RunRequest, or answers to a pause, of an authenticated user.
Out: the RunAnswer that the session's actor committed before it replied.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import orjson

from callboard_http.auth import Principal
from callboard_http.records import Records
from callboard_http.run_request import Json, Message, ResumeEntry, RunRequest
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.broker.large_commands import send_any_size
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
from callboard_runtime.errors import CallboardError, InvalidInput, NotFound, TooLarge, ToolResultMismatch
from callboard_runtime.settings import Settings


class Acceptance:
    """Sends clients' commands; waits `http.accept_timeout` at most, after which nothing is accepted any more."""

    def __init__(self, commands: CommandClient, records: Records, settings: Settings) -> None:
        self._commands, self._records = commands, records
        self._timeout, self._max_result = settings.http.accept_timeout, settings.runs.max_tool_result_bytes

    async def run(self, principal: Principal, request: RunRequest) -> RunAnswer:
        """Accept a run, or the answers that the request brings. Raises what the actor refused it with."""
        session_id = session_uuid(principal.user_id, request.thread_id)
        if request.answers:
            return await self._answers(principal, session_id, request)
        shown = [message.message_id for message in request.user_messages]
        # Clients show all of a thread each time. What is known need not travel; a single one the actor itself drops.
        known = await self._records.known_messages(session_id, shown) if len(shown) > 1 else set[str]()
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
        leg_run_id: str,
        digest: str,
        answers: Sequence[ToolAnswer],
        run_id: str | None = None,
    ) -> RunAnswer:
        """Answer pending calls of `run_id`, or of the run that the session waits with; it goes on as `leg_run_id`.

        Raises TooLarge for an answer that is, and what the actor refused the answers with.
        """
        self._check_sizes(answers)
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

    async def send(self, command: ClientCommand) -> Answer:
        """Send any command within the time that this front waits; a large one is left in the database for its actor."""
        return await send_any_size(self._commands, command, self._timeout, self._records.keep_command)

    async def _answers(self, principal: Principal, session_id: UUID, request: RunRequest) -> RunAnswer:
        state = await self._records.state(principal.user_id, request.thread_id)
        modes = {call.tool_call_id: call.mode for call in state.pending_tool_calls} if state else {}
        named = [message.id for message in request.tool_answers]
        known = await self._records.own_results(session_id, named) if named else set[str]()
        results = [tool_result(message) for message in frontend_results(request, modes) if message.id not in known]
        answers = [*map(decision, request.resume), *results]
        if not answers:
            raise ToolResultMismatch("an approval is answered with `resume`, not with a tool message")
        try:
            answer = await self.resume(principal, session_id, request.run_id, request.digest, answers)
        except NotFound:  # there is no session whose actor could note it
            await self._records.audit(principal.user_id, "tool_result.refused", f"{request.thread_id}: no such session")
            raise ToolResultMismatch("this thread has no run that waits for an answer") from None
        if answer.status is RunStatus.AWAITING_INPUT and state and state.active:
            return answer.but(run_id=state.active.client_run_id)  # answers are missing: no leg has the new runId yet
        return answer

    def _check_sizes(self, answers: Sequence[ToolAnswer]) -> None:
        for index, answer in enumerate(answers):
            size = len(orjson.dumps([answer.payload, answer.edited_args]))
            if size > self._max_result:
                raise TooLarge(f"answers.{index}: has {size} bytes; an answer may have {self._max_result}")

    async def _send(self, command: ClientCommand) -> RunAnswer:
        answer = await self.send(command)
        if not isinstance(answer, RunAnswer):
            raise CallboardError(f"{command.type} was answered with {answer.type}")
        return answer


def frontend_results(request: RunRequest, modes: Mapping[str, ToolMode]) -> list[Message]:
    """The tool messages that are results of the browser's own tools.

    CopilotKit adds one for each approval that it answers in `resume`; that is not what its tool came to.
    """
    known = {call for call, mode in modes.items() if mode is ToolMode.FRONTEND_EXECUTE}
    decided = modes.keys() - known
    wanted = known if request.resume else {m.tool_call_id for m in request.tool_answers} - decided
    return [message for message in request.tool_answers if message.tool_call_id in wanted]


def decision(entry: ResumeEntry) -> ToolAnswer:
    """An interrupt's answer: `{"approved": bool, "editedArgs"?: {…}}`, or `{"outcome": "retry" | "fail"}`."""
    payload = _json_object(entry.payload)
    approved = entry.payload if isinstance(entry.payload, bool) else payload.get("approved")
    return ToolAnswer(
        interrupt_id=entry.interrupt_id,
        status=_status(entry, approved, payload.get("outcome")),
        payload=entry.payload,
        edited_args=_edited(entry, payload.get("editedArgs")),
    )


def tool_result(message: Message) -> ToolAnswer:
    """A frontend tool's result; a reported failure is a result, too."""
    payload: Any = {"error": message.error} if message.error else message.content
    return ToolAnswer(tool_call_id=message.tool_call_id, status="result", payload=payload, message_id=message.id)


def _status(entry: ResumeEntry, approved: Any, outcome: Any) -> Any:
    if entry.status == "cancelled":
        return "cancelled"
    if isinstance(approved, bool):
        return "approved" if approved else "rejected"
    return outcome if outcome in ("retry", "fail") else "result"


def _edited(entry: ResumeEntry, given: Any) -> Json | None:
    """What replaces the arguments, even by none; anything else must not pass for an approval of the model's own."""
    if given is None or isinstance(given, dict):
        return cast(Json | None, given)
    raise InvalidInput(f"resume: payload.editedArgs of {entry.interrupt_id!r} must be an object")


def _json_object(value: Any) -> Json:
    return cast(Json, value) if isinstance(value, dict) else {}
