"""A worker that is played by hand, and what it and its clients send."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch, EventId, batch
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from integration.http_harness import (
    USER,
    Backstage,
)

RUNS = "/api/v1/agent/runs"
SESSIONS = "/api/v1/agent/sessions"
AGUI = "/api/v1/agent/agui/default"


def body(run: str = "r1", thread: str = "t1", text: str = "hello", **changes: Any) -> dict[str, Any]:
    message = {"id": f"m-{run}", "role": "user", "content": text}
    return {"threadId": thread, "runId": run, "messages": [message]} | changes


@dataclass
class Worker:
    """One attempt, played by hand: its commands go to the real actor."""

    commands: CommandClient
    run: str
    epoch: int
    seq: int
    opening: EventBatch
    leg: int = 1
    ordinal: int = 0

    @classmethod
    async def start(cls, commands: CommandClient, run: str, leg: int = 1, thread: str = "t1") -> Worker:
        command = c.StartRun(
            session_id=session_uuid(USER, thread),
            run_id=run_uuid(USER, run),
            leg=leg,
            attempt_id=uuid.uuid4(),
            process="w",
        )
        answer = await commands.send(command, 10)
        assert isinstance(answer, c.StartAnswer)
        return cls(commands, run, answer.epoch, answer.opening.last_seq, answer.opening, leg)

    async def send(self, kind: type[Any], *shown: dict[str, Any], **fields: Any) -> c.Answer:
        sent = batch(self.epoch, self.seq + 1, shown) if shown else None
        self.seq += len(shown)
        self.ordinal += 1
        place = {"session_id": session_uuid(USER, "t1"), "run_id": run_uuid(USER, self.run)}
        return await self.commands.send(
            kind(**place, epoch=self.epoch, ordinal=self.ordinal, events=sent, **fields), 10
        )

    async def show(self, stage: Backstage, sent: EventBatch, previous: EventId) -> None:
        place = (session_uuid(USER, "t1"), run_uuid(USER, self.run))
        await stage.tail.append(place[0], sent, committed=0, create=True)
        await stage.lanes.publish(*place, self.leg, sent, previous)


def approval(call: str, **changes: Any) -> PendingToolCall:
    return PendingToolCall(tool_call_id=call, tool_name="refund", interrupt_id=f"int-{call}", args={"sum": 5}).but(
        **changes
    )


def frontend(call: str) -> PendingToolCall:
    return approval(
        call,
        interrupt_id=None,
        mode=ToolMode.FRONTEND_EXECUTE,
        status=ToolCallStatus.PENDING_RESULT,
        tool_name="ui.pick",
    )
