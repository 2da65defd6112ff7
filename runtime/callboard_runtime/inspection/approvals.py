"""Every decision that a person owes, of all sessions."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.state_snapshot import PendingToolCall
from callboard_runtime.inspection.database import Row, question
from callboard_runtime.inspection.paging import OLDEST, Position, check_count, page_of
from callboard_runtime.inspection.run_detail import open_calls
from callboard_runtime.inspection.views import ApprovalLine, ApprovalList

_WAITING = text("""
SELECT r.id, r.client_run_id, r.session_id, s.thread_id, r.user_id, r.agent_id, r.created_at, s.state_snapshot
  FROM runs r JOIN sessions s ON s.id = r.session_id
 WHERE r.status = 'awaiting_input' AND (r.created_at, r.id) > (:at, :id)
 ORDER BY r.created_at, r.id LIMIT :count
""")
_HOLDER = text("""
SELECT r.id, r.client_run_id, r.session_id, s.thread_id, r.user_id, r.agent_id, r.created_at, s.state_snapshot
  FROM runs r JOIN sessions s ON s.id = r.session_id
 WHERE r.status = 'awaiting_input'
   AND s.state_snapshot->'pending_tool_calls' @>
       jsonb_build_array(jsonb_build_object('interrupt_id', CAST(:interrupt_id AS text)))
 LIMIT 1
""")


async def list_approvals(engine: AsyncEngine, count: int, after: str | None) -> ApprovalList:
    """Those of the `count` oldest waiting runs; calls that wait for a client's own tools are left out."""
    start = Position.parse(after) if after is not None else OLDEST
    async with question(engine) as ask:
        rows = await ask.rows(_WAITING, at=start.at, id=start.id, count=check_count(count) + 1)
    kept, following = page_of(rows, count, "created_at")
    return ApprovalList(approvals=tuple(line for row in kept for line in _lines(row)), next=following)


async def find_approval(engine: AsyncEngine, interrupt_id: str) -> ApprovalLine | None:
    """The open approval of an interrupt."""
    async with question(engine) as ask:
        row = await ask.row(_HOLDER, interrupt_id=interrupt_id)
    lines = _lines(row) if row else []
    return next((line for line in lines if line.interrupt_id == interrupt_id), None)


def _lines(row: Row) -> list[ApprovalLine]:
    calls = open_calls(row["state_snapshot"], row["id"])
    return [_line(row, call, call.interrupt_id) for call in calls if call.interrupt_id is not None]


def _line(row: Row, call: PendingToolCall, interrupt_id: str) -> ApprovalLine:
    return ApprovalLine(
        interrupt_id=interrupt_id,
        tool_call_id=call.tool_call_id,
        tool_name=call.tool_name,
        status=call.status,
        run=row["id"],
        run_id=row["client_run_id"],
        session=row["session_id"],
        session_id=row["thread_id"],
        user_id=row["user_id"],
        agent_id=row["agent_id"],
        requested_at=call.requested_at,
        expires_at=call.expires_at,
    )
