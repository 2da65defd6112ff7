"""One run, from its post to its end: its stream is read, cut and resumed, and what it asks for is answered.

In:  a session, and what the run is to exercise
Out: a Sample
"""

from __future__ import annotations

import random
import time
from dataclasses import replace

from callboard_runtime.client import (
    ClientError,
    Event,
    EventId,
    EventsMissing,
    EventStream,
    ProblemError,
    ToolAnswer,
)
from callboard_runtime.load.plan import FRONTEND_TOOL, Kind, Plan
from callboard_runtime.load.samples import Marks, Sample
from callboard_runtime.load.users import Session

OUTPUT = frozenset({"TEXT_MESSAGE_CONTENT", "TOOL_CALL_START", "REASONING_MESSAGE_CONTENT"})
MAX_LEGS = 20
RESULT = {"ok": True}


class Turn:
    """Use it once. `due` is when the run was to start, on the monotonic clock: waiting to start counts."""

    def __init__(self, plan: Plan, session: Session, chance: random.Random, due: float, test_began: float) -> None:
        self._plan, self._session, self._chance, self._due = plan, session, chance, due
        self._kind = plan.kind(chance)
        self._run_id = f"{session.thread_id}-run-{session.runs}"
        self._began = due - test_began
        self._marks = Marks()
        self._events = self._legs = self._connections = 0
        self._faults: list[str] = []

    async def play(self) -> Sample:
        """The run to its end; whatever goes wrong is in the sample."""
        seen = len(self._session.received.faults)
        error = await self._error()
        faults = (*self._faults, *self._session.received.faults[seen:])
        return Sample(
            run_id=self._run_id,
            kind=self._kind,
            began=self._began,
            marks=self._marks,
            events=self._events,
            legs=self._legs,
            connections=self._connections,
            error=error,
            faults=faults,
        )

    async def _error(self) -> str | None:
        try:
            return await self._run()
        except ClientError as error:
            self._session.complete = False  # what it would have brought is not known
            return self._code(error)

    def _code(self, error: ClientError) -> str:
        if isinstance(error, EventsMissing):
            self._faults.append(f"lost: {error}")
        return error.code if isinstance(error, ProblemError) else type(error).__name__

    async def _run(self) -> str | None:
        """The code of the error that the run ended with; None for a success."""
        tools = [FRONTEND_TOOL] if self._kind is Kind.FRONTEND_TOOL else []
        text = self._plan.text(self._kind)
        client, thread = self._session.client, self._session.thread_id
        run = await client.post_run(thread, text, run_id=self._run_id, agent_id=self._plan.agent_id, tools=tools)
        self._mark("accepted")
        cursor: EventId | None = None
        while (closing := await self._leg(client.events(run.run_id, after=cursor))) is not None:
            answers = _answers(closing)
            if closing.type == "RUN_ERROR":
                return str(closing.data.get("code", "RUN_ERROR"))
            if not answers:
                self._mark("ended")
                return None
            if self._legs == MAX_LEGS:
                return "TOO_MANY_LEGS"
            cursor = closing.id
            await client.resume(run.run_id, answers)
        self._session.complete = False
        self._faults.append("lost: the stream ended without a closing event")
        return "NO_END"

    async def _leg(self, stream: EventStream) -> Event | None:
        """Read one leg; returns its closing event."""
        self._legs += 1
        cut_after = self._plan.cut_after(self._chance)
        last: Event | None = None
        count = 0
        async with stream:
            async for event in stream:
                last, count = event, count + 1
                self._take(event)
                if count == cut_after and not event.closing:
                    stream.disconnect()
        self._connections += stream.connections
        if stream.repeated:
            self._faults.append(f"doubled: {stream.repeated} events came again")
        return last if last is not None and last.closing else None

    def _take(self, event: Event) -> None:
        self._events += 1
        self._session.received.note(event)
        if event.type == "RUN_STARTED":
            self._mark("started")
        elif event.type == "STEP_STARTED":
            self._mark("step")
        elif event.type in OUTPUT:
            self._mark("token")

    def _mark(self, name: str) -> None:
        if getattr(self._marks, name) is None:
            self._marks = replace(self._marks, **{name: time.monotonic() - self._due})


def _answers(closing: Event) -> list[ToolAnswer]:
    """What a user would answer: yes to every question, and a result to every call."""
    approvals = [ToolAnswer(interrupt_id=str(item["id"]), status="approved") for item in closing.interrupts]
    results = [ToolAnswer(tool_call_id=c, status="result", payload=RESULT) for c in closing.pending_tool_calls]
    return approvals + results
