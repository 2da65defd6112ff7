"""Deliveries to webhooks: what each URL was told of, how often, and what it answered."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.inspection.database import question
from callboard_runtime.inspection.paging import NEWEST, Position, check_count, page_of
from callboard_runtime.inspection.views import DeliveryLine, DeliveryList, DeliveryStatus

_DELIVERIES = text("""
SELECT * FROM (
       SELECT d.*, r.client_run_id, r.user_id, s.thread_id,
              CASE WHEN d.delivered_at IS NOT NULL THEN 'delivered'
                   WHEN d.given_up_at IS NOT NULL THEN 'given_up' ELSE 'open' END AS status
         FROM webhook_deliveries d
         LEFT JOIN runs r ON r.id = d.run_id
         LEFT JOIN sessions s ON s.id = d.session_id) d
 WHERE d.status = ANY(:statuses) AND (d.created_at, d.id) < (:at, :id)
 ORDER BY d.created_at DESC, d.id DESC LIMIT :count
""")


async def list_deliveries(
    engine: AsyncEngine, statuses: Sequence[DeliveryStatus], count: int, after: str | None
) -> DeliveryList:
    """The newest first. Raises InvalidInput for a wrong `after` or `count`."""
    start = Position.parse(after) if after is not None else NEWEST
    wanted = [str(status) for status in statuses]
    async with question(engine) as ask:
        rows = await ask.rows(_DELIVERIES, statuses=wanted, at=start.at, id=start.id, count=check_count(count) + 1)
    kept, following = page_of(rows, count, "created_at")
    lines = tuple(
        DeliveryLine(
            id=row["id"],
            event_id=row["event_id"],
            type=row["type"],
            url=row["url"],
            status=DeliveryStatus(row["status"]),
            attempts=row["attempts"],
            last_status=row["last_status"],
            last_error=row["last_error"],
            run=row["run_id"],
            run_id=row["client_run_id"],
            session=row["session_id"],
            session_id=row["thread_id"],
            user_id=row["user_id"],
            created_at=row["created_at"],
            attempted_at=row["attempted_at"],
            next_try=row["due_at"] if row["status"] == DeliveryStatus.OPEN else None,
            ended_at=row["delivered_at"] or row["given_up_at"],
        )
        for row in kept
    )
    return DeliveryList(deliveries=lines, next=following)
