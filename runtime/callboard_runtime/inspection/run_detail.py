"""One run whole: legs, attempts, journal, provider requests, messages, what it waits for, and who did what to it."""

from __future__ import annotations

from typing import TypeVar
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.state_snapshot import OPEN_CALLS, PendingToolCall, StateSnapshot
from callboard_runtime.errors import NotFound
from callboard_runtime.inspection.database import Question, Row, question
from callboard_runtime.inspection.runs import COLUMNS, run_line
from callboard_runtime.inspection.views import (
    AttemptLine,
    AuditLine,
    CallLine,
    LegLine,
    MessageLine,
    OpenCall,
    RunDetail,
    StepLine,
)

SHOWN = 500  # newest rows of each part
CHARACTERS = 4000  # of one result or message

_RUN = text(f"""
SELECT {COLUMNS}, r.error_message, r.deadline, r.cancel_by, s.state_snapshot
  FROM runs r JOIN sessions s ON s.id = r.session_id WHERE r.id = :run
""")  # noqa: S608
_LEGS = text("SELECT * FROM run_legs WHERE run_id = :run ORDER BY leg DESC LIMIT :count")
_ATTEMPTS = text("SELECT * FROM run_attempts WHERE run_id = :run ORDER BY epoch DESC LIMIT :count")
_STEPS = text(f"""
SELECT position, key, kind, name, epoch, status, tool_call_id, left(result::text, {CHARACTERS}) AS result,
       coalesce(length(result::text), 0) AS result_length, left(error, {CHARACTERS}) AS error, begun_at, recorded_at
  FROM run_steps WHERE run_id = :run ORDER BY position DESC LIMIT :count
""")  # noqa: S608
_CALLS = text("SELECT * FROM llm_calls WHERE run_id = :run ORDER BY begun_at DESC, key DESC, epoch DESC LIMIT :count")
_MESSAGES = text(f"""
SELECT seq, role, left(coalesce(content #>> '{{}}', tool_calls::text), {CHARACTERS}) AS content, tool_call_id,
       withdrawn, created_at
  FROM messages WHERE run_id = :run ORDER BY seq DESC LIMIT :count
""")  # noqa: S608
_AUDIT = text("""
SELECT at, actor, action, subject, details FROM audit_log
 WHERE session_id = :session AND run_id = :run ORDER BY at DESC LIMIT :count
""")

T = TypeVar("T")


async def get_run(engine: AsyncEngine, run_id: UUID) -> RunDetail:
    """The run of an internal id, every part oldest first; raises NotFound."""
    async with question(engine) as ask:
        row = await ask.row(_RUN, run=run_id)
        if row is None:
            raise NotFound(f"there is no run {run_id}")
        return await _detail(ask, row)


async def _detail(ask: Question, row: Row) -> RunDetail:
    more: list[str] = []

    async def part(name: str, rows: list[Row]) -> list[Row]:
        if len(rows) > SHOWN:
            more.append(name)
        return rows[:SHOWN][::-1]

    names = {"run": row["id"], "count": SHOWN + 1}
    legs = await part("legs", await ask.rows(_LEGS, **names))
    attempts = await part("attempts", await ask.rows(_ATTEMPTS, **names))
    steps = await part("steps", await ask.rows(_STEPS, **names))
    calls = await part("calls", await ask.rows(_CALLS, **names))
    messages = await part("messages", await ask.rows(_MESSAGES, **names))
    audit = await part("audit", await ask.rows(_AUDIT, session=row["session_id"], **names))
    return RunDetail(
        run=run_line(row),
        error_message=row["error_message"],
        deadline=row["deadline"],
        cancel_by=row["cancel_by"],
        legs=tuple(map(_leg, legs)),
        attempts=tuple(map(AttemptLine.model_validate, attempts)),
        steps=tuple(map(StepLine.model_validate, steps)),
        calls=tuple(map(CallLine.model_validate, calls)),
        messages=tuple(map(MessageLine.model_validate, messages)),
        open_calls=tuple(OpenCall.model_validate(call) for call in open_calls(row["state_snapshot"], row["id"])),
        audit=tuple(map(AuditLine.model_validate, audit)),
        cut=tuple(more),
    )


def open_calls(stored: Row | None, run_id: UUID) -> list[PendingToolCall]:
    """What the run waits for, out of its session's stored snapshot."""
    state = StateSnapshot.load(stored or {})
    return [call for call in state.pending_tool_calls if call.run_id == str(run_id) and call.status in OPEN_CALLS]


def _leg(row: Row) -> LegLine:
    end = f"{row['last_epoch']}-{row['last_seq']}" if row["last_seq"] is not None else None
    return LegLine(
        leg=row["leg"],
        run_id=row["client_run_id"],
        first_epoch=row["first_epoch"],
        last_event_id=end,
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )
