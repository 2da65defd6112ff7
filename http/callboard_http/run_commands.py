"""What a client may ask of runs, whichever way it came: over HTTP or over the broker.

In:  a parsed request of an authenticated principal.
Out: the actor's answer, or what it refused the request with.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from pydantic import Field

from callboard_http.accept import Acceptance, decision
from callboard_http.auth import Principal
from callboard_http.authorise import Action, authorise
from callboard_http.limits import Limits
from callboard_http.records import Records, RunRecord
from callboard_http.run_request import MAX_ANSWERS, ResumeEntry, RunRequest, Wire, check_id
from callboard_runtime.domain.commands import RunAnswer, ToolAnswer
from callboard_runtime.domain.run_input import digest
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import Gone, InvalidInput, NotFound
from callboard_runtime.settings import Settings

RUNS = "/api/v1/agent/runs"


class Resume(Wire):
    """`answers` names calls, `resume` names interrupts as AG-UI does; `run_id` is the next leg's."""

    run_id: str | None = Field(default=None, alias="run_id")
    answers: tuple[ToolAnswer, ...] = Field(default=(), max_length=MAX_ANSWERS)
    resume: tuple[ResumeEntry, ...] = Field(default=(), max_length=MAX_ANSWERS)


class Cancel(Wire):
    reason: str | None = Field(default=None, max_length=500)


class RunCommands:
    """Starts, resumes and cancels runs of those who may."""

    def __init__(self, acceptance: Acceptance, records: Records, limits: Limits, settings: Settings) -> None:
        self._acceptance, self._records = acceptance, records
        self._limits, self._settings = limits, settings

    async def start(self, principal: Principal, asked: RunRequest) -> RunAnswer:
        """Accept a run that was counted already; the same one again gets the same answer."""
        await self._limits.check_backlog(principal.user_id)
        return await self._acceptance.run(principal, asked)

    async def cancel(self, principal: Principal, owner: str, run_id: str, given: Cancel) -> RunAnswer:
        """Have a run cancelled: no further step is granted once this returns."""
        run = await self._run(principal, "write", owner, run_id)
        return await self._acceptance.cancel(owner, run.session_id, run_id, given.reason)

    async def resume(self, principal: Principal, owner: str, run_id: str, given: Resume) -> RunAnswer:
        """Answer what the run waits for; the answers are durable once this returns."""
        answers = named_answers(given, own=principal.user_id == owner)
        leg_run_id = check_id("run_id", given.run_id or run_id)
        run = await self._run(principal, "approve", owner, run_id)
        name = run.client_run_id
        asked = digest({"resume": name, "by": principal.user_id, "body": given.model_dump(mode="json")})
        answer = await self._acceptance.resume(principal, run.session_id, leg_run_id, asked, answers, run_id=name)
        waiting = answer.status is RunStatus.AWAITING_INPUT  # answers are missing: no leg has the new runId yet
        return answer.but(run_id=name) if waiting else answer

    async def _run(self, principal: Principal, action: Action, owner: str, run_id: str) -> RunRecord:
        what = f"run {run_id}"
        await authorise(principal, action, owner, what, records=self._records, settings=self._settings)
        return await owned_run(self._records, owner, run_id)


async def owned_run(records: Records, owner: str, run_id: str) -> RunRecord:
    """The owner's run; raises NotFound, or Gone when its session was deleted."""
    run = await records.run(owner, run_id)
    if run is None:
        raise NotFound(f"there is no run {run_id}")
    if run.deleted:
        raise Gone("the session of this run was deleted")
    return run


def named_answers(given: Resume, *, own: bool) -> list[ToolAnswer]:
    """All answers of a body; raises InvalidInput for one that names no call, or, from an approver, no approval."""
    answers = [*given.answers, *map(decision, given.resume)]
    if not answers:
        raise InvalidInput("answers: name at least one answer, here or in `resume`")
    for index, answer in enumerate(answers):
        if answer.interrupt_id is None and (answer.tool_call_id is None or not own):
            one_of = "interrupt_id, or tool_call_id" if own else "interrupt_id"
            raise InvalidInput(f"answers.{index}: needs {one_of}")
    return answers


def events_url(run_id: str) -> str:
    return f"{RUNS}/{quote(run_id, safe='')}/events"


def accepted(answer: RunAnswer) -> dict[str, Any]:
    """The body of every answer that says: this is durable."""
    return {
        "run_id": answer.run_id,
        "session_id": answer.thread_id,
        "task_id": answer.task_id,
        "status": answer.status,
        "leg": answer.leg,
        "events_url": events_url(answer.run_id),
    }
