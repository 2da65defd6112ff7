"""Commands that wait in the database for their actors, as they are too large for a message."""

from __future__ import annotations

from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.ids import new_id
from callboard_runtime.persistence.database import transaction

_CLAIM = text("INSERT INTO command_claims (id, session_id, body) VALUES (:id, :session_id, :body)")


async def keep_command(engine: AsyncEngine, session_id: UUID, body: bytes) -> UUID:
    """Keep a command for its actor; committed when this returns the claim's id. Raises Unavailable."""
    claim_id = new_id()
    async with transaction(engine) as connection:
        await connection.execute(_CLAIM, {"id": claim_id, "session_id": session_id, "body": body})
    return claim_id
