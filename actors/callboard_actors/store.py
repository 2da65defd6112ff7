"""What a partition's mailboxes read and write: the one seam between them and PostgreSQL and Redis.

In: sessions to load, commands that need facts, decided groups. Out: states, facts, outbox rows that are durable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.commit import Versioned, commit
from callboard_actors.facts import Facts
from callboard_actors.gather import AgentRows, Gatherer
from callboard_actors.sessions import Held
from callboard_actors.writes import OutboxItem
from callboard_runtime.domain.commands import Command
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.persistence.database import connect
from callboard_runtime.settings import Settings
from callboard_runtime.stream.tail import TailStore


class Store(Protocol):
    """Every method raises Unavailable while the database is away."""

    async def load(self, ids: Sequence[UUID]) -> Mapping[UUID, Held]:
        """The stored ones of these sessions."""
        ...

    async def gather(self, asked: Sequence[tuple[StateSnapshot, Command]]) -> list[Facts]:
        """What each command's decision needs beyond the snapshot, in the given order."""
        ...

    async def commit(self, partition: int, partition_epoch: int, group: Sequence[Versioned]) -> list[OutboxItem]:
        """Write the group, all of it or nothing; returns the outbox rows written.

        Raises FencedOut when the partition or one of the sessions has another writer, RunIdTaken when a run id is
        another session's; after Unavailable nobody knows whether the group was written.
        """
        ...

    async def forget(self, session_id: UUID) -> None:
        """Drop what is kept of a deleted session outside the database."""
        ...


class PostgresStore:
    """The store of a real actor process."""

    def __init__(self, engine: AsyncEngine, settings: Settings, tail: TailStore) -> None:
        self._engine, self._tail = engine, tail
        self._announce = settings.events.enabled
        self._gatherer = Gatherer(settings, tail)

    async def load(self, ids: Sequence[UUID]) -> Mapping[UUID, Held]:
        async with connect(self._engine) as db:
            rows = (await db.execute(_LOAD, {"ids": list(ids)})).all()
        return {row.id: Held(StateSnapshot.load(row.state_snapshot), row.state_version) for row in rows}

    async def gather(self, asked: Sequence[tuple[StateSnapshot, Command]]) -> list[Facts]:
        gatherer = self._gatherer
        wanting = [gatherer.needs_reads(snapshot, command) for snapshot, command in asked]
        if not any(wanting):
            return [gatherer.bare() for _ in asked]
        async with connect(self._engine) as db:
            agents = AgentRows(db)
            return [
                await gatherer.gather(db, agents, snapshot, command) if reads else gatherer.bare()
                for (snapshot, command), reads in zip(asked, wanting, strict=True)
            ]

    async def commit(self, partition: int, partition_epoch: int, group: Sequence[Versioned]) -> list[OutboxItem]:
        return await commit(self._engine, partition, partition_epoch, group, announce=self._announce)

    async def forget(self, session_id: UUID) -> None:
        await self._tail.delete(session_id)


_LOAD = text(
    """SELECT id, COALESCE(state_snapshot, '{}'::jsonb) AS state_snapshot, state_version
       FROM sessions WHERE id = ANY(:ids)"""
)
