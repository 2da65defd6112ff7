"""The states that a partition's actor holds: read once, replaced after every commit, dropped with the partition."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.persistence.database import connect


@dataclass(frozen=True, slots=True)
class Held:
    """A session's state and the version of its row; 0: not stored yet."""

    snapshot: StateSnapshot
    version: int


NEW = Held(StateSnapshot(), 0)


class Sessions:
    """A bounded cache in order of use; what is in it is committed."""

    def __init__(self, engine: AsyncEngine, limit: int) -> None:
        self._engine = engine
        self._limit = limit
        self._held: OrderedDict[UUID, Held] = OrderedDict()

    async def read(self, ids: Sequence[UUID]) -> dict[UUID, Held]:
        """The states of `ids`, from memory or from one query; raises Unavailable."""
        missing = [session_id for session_id in ids if session_id not in self._held]
        if missing:
            await self._load(missing)
        return {session_id: self._held.get(session_id, NEW) for session_id in ids}

    async def _load(self, ids: list[UUID]) -> None:
        async with connect(self._engine) as db:
            rows = (await db.execute(_LOAD, {"ids": ids})).all()
        for row in rows:
            self.replace(row.id, Held(StateSnapshot.load(row.state_snapshot), row.state_version))

    def replace(self, session_id: UUID, held: Held) -> None:
        self._held[session_id] = held
        self._held.move_to_end(session_id)
        while len(self._held) > self._limit:
            self._held.popitem(last=False)

    def forget(self, ids: Iterable[UUID]) -> None:
        """Read these again next time: nobody knows whether their last commit took effect."""
        for session_id in ids:
            self._held.pop(session_id, None)


_LOAD = text(
    """SELECT id, COALESCE(state_snapshot, '{}'::jsonb) AS state_snapshot, state_version
       FROM sessions WHERE id = ANY(:ids)"""
)
