"""The tools of the packaged workflow `demo`: one that just runs, one that looks something up, one that needs approval.

The fourth of the demonstration, `ui.set_theme`, is declared and run by the page.
"""

from __future__ import annotations

import zlib
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any, cast

from sqlalchemy.dialects.postgresql import insert

from callboard_runtime.persistence.database import create_engine, transaction
from callboard_runtime.persistence.tables import DemoRefundRow
from callboard_runtime.settings import Settings
from callboard_runtime.tools.spec import ToolContext

_GOODS = ("a lamp", "two chairs", "a teapot", "a bicycle bell")


def current_time() -> str:
    """The time of day, in UTC."""
    return datetime.now(UTC).strftime("%A, %d %B %Y, %H:%M:%S UTC")


def lookup_order(context: ToolContext, order_id: str) -> dict[str, str]:
    """An order, made up but the same every time; it becomes `order` of the shared state."""
    number = zlib.crc32(order_id.encode())
    order = {"order_id": order_id, "goods": _GOODS[number % len(_GOODS)], "total": f"{number % 9000 / 100 + 10:.2f}"}
    context.set_state({**_object(context.state), "order": order})
    return order


async def issue_refund(context: ToolContext, order_id: str, amount: str) -> str:
    """Write the refund into `demo_refunds`, once per tool call; raises ValueError for an amount that is none."""
    row = {"tool_call_id": context.tool_call_id, "user_id": context.user_id, "order_id": order_id}
    statement = insert(DemoRefundRow).values(**row, amount=_money(amount))
    engine = create_engine(_settings(), pool=0, name="demo-tools")
    try:
        async with transaction(engine) as connection:
            await connection.execute(statement.on_conflict_do_nothing())
    finally:
        await engine.dispose()
    state = _object(context.state)
    context.set_state({**state, "refunds": {**_object(state.get("refunds")), order_id: amount}})
    return f"Refunded {amount} for order {order_id}."


def _money(text: str) -> Decimal:
    with suppress(InvalidOperation):  # of the reading, and of comparing what is no number
        if 0 < (amount := Decimal(text)) < 10_000:
            return amount
    raise ValueError(f"amount: {text!r} is not a sum of money between 0 and 10000")


def _object(value: Any) -> dict[str, Any]:
    return cast(dict[str, Any], value) if isinstance(value, dict) else {}


@cache
def _settings() -> Settings:
    """The worker's own: tools are not given settings, which hold secrets."""
    return Settings()
