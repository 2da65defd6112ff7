"""What integrations are told of a run: started, interrupted, finished, failed, cancelled. Each message once per commit.

In: a decided command. Out: messages for the events exchange, whose ids come from what they say: a copy has the same id.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from callboard_actors.replies import Decided, opened_leg
from callboard_runtime.domain import events as e
from callboard_runtime.domain.state_snapshot import ActiveRun, QueuedRun, RunStatus

_ENDS = {RunStatus.SUCCEEDED: "finished", RunStatus.FAILED: "failed", RunStatus.CANCELLED: "cancelled"}


@dataclass(frozen=True, slots=True)
class Announcement:
    """`name` is the last part of the routing key `session.<id>.run.<id>.<name>`; `body` is the message."""

    id: UUID
    run_id: UUID
    name: str
    body: dict[str, Any]


def announcements(decided: Decided) -> Iterator[Announcement]:
    for event in decided.events:
        match event:
            case e.AttemptStarted(run_id=run_id) if event.leg == 1 and _first_attempt(decided):
                yield _announcement(decided, run_id, "started", {})
            case e.ToolsRequested(run_id=run_id):
                calls = [{"toolCallId": call.tool_call_id, "toolName": call.tool_name} for call in event.calls]
                yield _announcement(decided, run_id, "interrupted", {"pending": calls})
            case e.RunEnded(run_id=run_id):
                error = {"code": event.error_code, "message": event.error_message} if event.error_code else None
                yield _announcement(decided, run_id, _ENDS[event.status], {"error": error})
            case _:
                pass


def _first_attempt(decided: Decided) -> bool:
    return decided.before.active is not None and not decided.before.active.leg_started


def _announcement(decided: Decided, run_id: UUID, name: str, about: dict[str, Any]) -> Announcement:
    run = _find(decided, run_id)
    leg = opened_leg(decided, run_id) or (run.leg if isinstance(run, ActiveRun) else 1)
    message_id = uuid5(run_id, f"{name}-{leg}")
    body = {
        "id": str(message_id),
        "type": f"run.{name}",
        "at": decided.facts.now.isoformat(),
        "session_id": decided.after.thread_id,
        "run_id": run.client_run_id if run else None,
        "user_id": decided.after.user_id,
        "agent_id": run.agent_id if run else None,
        "leg": leg,
        **about,
    }
    return Announcement(message_id, run_id, name, body)


def _find(decided: Decided, run_id: UUID) -> ActiveRun | QueuedRun | None:
    candidates = (decided.after.active, decided.before.active, *decided.before.queue)
    return next((run for run in candidates if run is not None and run.run_id == run_id), None)
