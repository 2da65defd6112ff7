"""The support desk's tools: orders from a file beside this one, refunds in an SQLite database."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing
from decimal import Decimal
from pathlib import Path

from callboard_runtime.tools.spec import ToolContext

_ORDERS: dict[str, dict[str, str]] = json.loads(Path(__file__).with_name("orders.json").read_text())
_SCHEMA = "CREATE TABLE IF NOT EXISTS refunds (tool_call_id TEXT PRIMARY KEY, order_id TEXT, cents INTEGER)"


def find_order(order_id: str) -> dict[str, str]:
    """Goods, total and state of an order; raises ValueError, whose text the model reads."""
    if order_id not in _ORDERS:
        raise ValueError(f"there is no order {order_id}")
    return {"order_id": order_id, **_ORDERS[order_id]}


def refund_order(context: ToolContext, order_id: str, amount: str) -> str:
    """Pay back part of an order's total, at most once per tool call; raises ValueError for more than what is left."""
    cents = int(Decimal(amount) * 100)
    with closing(sqlite3.connect(_database(), timeout=5)) as database, database:
        database.execute(_SCHEMA)
        database.execute("BEGIN IMMEDIATE")
        if database.execute("SELECT 1 FROM refunds WHERE tool_call_id = ?", (context.tool_call_id,)).fetchone():
            return _paid(order_id, amount)
        left = _total_cents(order_id) - _refunded_cents(database, order_id)
        if not 0 < cents <= left:
            raise ValueError(f"at most {left / 100:.2f} can be paid back for order {order_id}")
        database.execute("INSERT INTO refunds VALUES (?, ?, ?)", (context.tool_call_id, order_id, cents))
    context.set_state({"last_refund": {"order_id": order_id, "amount": amount}})
    return _paid(order_id, amount)


def _paid(order_id: str, amount: str) -> str:
    return f"Paid back {amount} for order {order_id}."


def _total_cents(order_id: str) -> int:
    return int(Decimal(find_order(order_id)["total"]) * 100)


def _refunded_cents(database: sqlite3.Connection, order_id: str) -> int:
    found = database.execute("SELECT coalesce(sum(cents), 0) FROM refunds WHERE order_id = ?", (order_id,))
    return int(found.fetchone()[0])


def _database() -> Path:
    """`SUPPORT_DESK_DATA`, or a file beside the orders."""
    return Path(os.environ.get("SUPPORT_DESK_DATA") or Path(__file__).with_name("refunds.sqlite"))
