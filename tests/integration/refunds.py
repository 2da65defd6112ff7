"""Refunds that the demonstration's agent asks approval for, and what became of them."""

from collections import Counter
from decimal import Decimal
from typing import Any

from agui_page import interrupts
from callboard_runtime.domain.ids import session_uuid
from front_client import RUNS, Answer, FrontClient, Json
from stack import Callboard


async def refunds(callboard: Callboard, client: FrontClient) -> dict[str, Decimal]:
    """What was paid back to this user, by order."""
    rows = await callboard.query("SELECT order_id, amount FROM demo_refunds WHERE user_id = $1", client.user)
    assert len({row["order_id"] for row in rows}) == len(rows), "an order was refunded twice"
    return {row["order_id"]: row["amount"] for row in rows}


async def audit(callboard: Callboard, client: FrontClient, thread: str) -> Counter[tuple[str, str]]:
    """Who did what in a session."""
    session = session_uuid(client.user, thread)
    rows = await callboard.query("SELECT actor, action FROM audit_log WHERE session_id = $1", session)
    return Counter((row["actor"], row["action"]) for row in rows)


async def resume(client: FrontClient, run: str, *answers: Json, **more: Any) -> Answer:
    return await client.request("POST", f"{RUNS}/{run}/resume", {"answers": answers, **more})


async def paused(client: FrontClient, message: str, **more: Any) -> tuple[str, list[Json]]:
    """A run that was started over REST and waits, and its interrupts."""
    run = await client.start(message, agent="demo", **more)
    return run, interrupts((await client.read(run)).frames)
