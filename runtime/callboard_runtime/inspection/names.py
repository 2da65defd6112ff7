"""From what clients call a session or run to the internal id; says what there is when there is no such thing."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Iterable
from uuid import UUID

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.errors import InvalidInput, NotFound
from callboard_runtime.inspection.database import question
from callboard_runtime.inspection.paging import MAX_PAGE
from callboard_runtime.inspection.runs import RunFilter, list_runs
from callboard_runtime.inspection.sessions import SessionFilter, list_sessions

Recent = Callable[[AsyncEngine], Awaitable[list[str]]]

# A few are enough to say that a name is not one user's alone.
_SESSIONS = text(
    "SELECT id, user_id FROM sessions WHERE thread_id = :name AND (:user_id = '' OR user_id = :user_id) LIMIT 3"
)
_RUNS = text("""
SELECT run_id AS id, user_id FROM run_legs
 WHERE client_run_id = :name AND (:user_id = '' OR user_id = :user_id) GROUP BY run_id, user_id LIMIT 3
""")


async def session_id(engine: AsyncEngine, given: str, user_id: str | None = None) -> UUID:
    """Of an internal id, or of a threadId; raises NotFound with what was probably meant, InvalidInput for several."""
    return await _find(engine, "session", given, user_id, _SESSIONS, recent_sessions)


async def run_id(engine: AsyncEngine, given: str, user_id: str | None = None) -> UUID:
    """Of an internal id, or of a runId, any leg's; raises as `session_id` does."""
    return await _find(engine, "run", given, user_id, _RUNS, recent_runs)


async def recent_sessions(engine: AsyncEngine) -> list[str]:
    """What clients call the sessions that changed last."""
    page = await list_sessions(engine, SessionFilter(), MAX_PAGE, None)
    return [session.session_id for session in page.sessions]


async def recent_runs(engine: AsyncEngine) -> list[str]:
    """What clients call the newest runs."""
    page = await list_runs(engine, RunFilter(), MAX_PAGE, None)
    return [run.run_id for run in page.runs]


async def _find(
    engine: AsyncEngine, kind: str, given: str, user_id: str | None, named: TextClause, recent: Recent
) -> UUID:
    async with question(engine) as ask:
        found = await ask.rows(named, name=given, user_id=user_id or "")
    if len(found) == 1:
        return found[0]["id"]
    if found:
        users = ", ".join(sorted(row["user_id"] for row in found))
        raise InvalidInput(f"several users have a {kind} {given} ({users}…): name one with --user, or the internal id")
    if (internal := _uuid(given)) is not None:
        return internal
    whose = f" of user {user_id}" if user_id else ""
    raise NotFound(f"there is no {kind} {given}{whose}{_nearest(given, await recent(engine))}")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _nearest(given: str, names: Iterable[str]) -> str:
    known = list(dict.fromkeys(names))
    near = [name for name in known if name.startswith(given)][:3] or difflib.get_close_matches(given, known, n=3)
    return f"; did you mean {' or '.join(near)}?" if near else ""
