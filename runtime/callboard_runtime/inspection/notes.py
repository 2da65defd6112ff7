"""Notes in the audit log that somebody with access to the database looked at what users wrote."""

from __future__ import annotations

import getpass
import socket
from uuid import UUID

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.ids import new_id
from callboard_runtime.persistence.database import transaction
from callboard_runtime.persistence.tables import AuditRow

READ = "operator_read"


async def note_look(engine: AsyncEngine, subject: str, session_id: UUID, run_id: UUID | None = None) -> None:
    """Note a look from this machine's command line; committed when this returns."""
    row = {"id": new_id(), "actor": _whoever(), "action": READ, "subject": subject[:500]}
    async with transaction(engine) as connection:
        await connection.execute(insert(AuditRow).values(**row, session_id=session_id, run_id=run_id))


def _whoever() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"cli:{user}@{socket.gethostname()}"
