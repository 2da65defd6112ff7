"""Tools that note each start, in a file of their own or in the database, and wait or die where a test lets them."""

import os
import time
from pathlib import Path

import asyncpg

from callboard_runtime.faults import fault_point
from callboard_runtime.tools.spec import ToolContext


def press(label: str) -> str:
    """Note that the button was pressed; with a label `hold-…`, return only when the test says so."""
    folder = Path(os.environ["CALLBOARD_TEST_TOOLS"])
    with (folder / f"{label}.pressed").open("a") as file:
        file.write(f"{os.getpid()}\n")
    while label.startswith("hold-") and not (folder / f"{label}.go").exists():
        time.sleep(0.02)
    return f"pressed {label}"


async def enter(context: ToolContext, label: str) -> str:
    """Note the start in the table `ledger`, where a second start would show."""
    connection = await asyncpg.connect(os.environ["CALLBOARD_DATABASE_URL"].replace("+asyncpg", ""))
    try:
        await connection.execute("INSERT INTO ledger VALUES ($1, $2)", label, context.tool_call_id)
    finally:
        await connection.close()
    fault_point("inside_tool")
    return f"entered {label}"


def remember(context: ToolContext, label: str) -> str:
    """Add the label to the shared state."""
    context.set_state({"labels": [*(context.state or {}).get("labels", []), label]})
    return f"remembered {label}"
