"""What the shell offers while an argument is typed. Silent when nothing can be offered."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

RUN_STATUSES = ("queued", "running", "awaiting_input", "cancelling", "succeeded", "failed", "cancelled")
SESSION_STATUSES = ("idle", "active", "awaiting_input", "deleted")
DELIVERY_STATUSES = ("open", "delivered", "given_up")


def run_statuses(incomplete: str) -> list[str]:
    return _of(incomplete, RUN_STATUSES)


def session_statuses(incomplete: str) -> list[str]:
    return _of(incomplete, SESSION_STATUSES)


def delivery_statuses(incomplete: str) -> list[str]:
    return _of(incomplete, DELIVERY_STATUSES)


def run_ids(incomplete: str) -> list[str]:
    """Of the newest runs."""

    async def recent(engine: AsyncEngine) -> list[str]:
        from callboard_runtime.inspection.names import recent_runs

        return await recent_runs(engine)

    return _asked(incomplete, recent)


def session_ids(incomplete: str) -> list[str]:
    """Of the sessions that changed last."""

    async def recent(engine: AsyncEngine) -> list[str]:
        from callboard_runtime.inspection.names import recent_sessions

        return await recent_sessions(engine)

    return _asked(incomplete, recent)


def interrupt_ids(incomplete: str) -> list[str]:
    """Of the open approvals."""

    async def open_ones(engine: AsyncEngine) -> list[str]:
        from callboard_runtime.inspection.approvals import list_approvals

        page = await list_approvals(engine, 200, None)
        return [line.interrupt_id for line in page.approvals]

    return _asked(incomplete, open_ones)


def _asked(incomplete: str, question: Callable[[AsyncEngine], Awaitable[list[str]]]) -> list[str]:
    from callboard_runtime.cli.inspect_service import ask
    from callboard_runtime.cli.running import use_running_services

    with contextlib.suppress(Exception), contextlib.redirect_stderr(io.StringIO()):
        use_running_services()
        return _of(incomplete, ask(question))
    return []


def _of(incomplete: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]
