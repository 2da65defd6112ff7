"""What the work on commands reads and writes: the one seam between it and PostgreSQL and Redis.

In: commands that need facts, decided groups. Out: states, facts, outbox rows that are durable.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.commit import Fences, Versioned, commit
from callboard_actors.connections import Connections
from callboard_actors.facts import Facts
from callboard_actors.gather import Agents, Gatherer, HeardFor
from callboard_actors.hooks import Hooks
from callboard_actors.look import Found, look
from callboard_actors.sessions import NEW, Held
from callboard_actors.writes import OutboxItem
from callboard_runtime.config.loader import Rows, fetch_rows
from callboard_runtime.domain.commands import MAX_CLAIM_BYTES, ClaimCheck, Command, decode_command
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.errors import InvalidInput, Refused
from callboard_runtime.persistence.database import connect
from callboard_runtime.settings import Settings
from callboard_runtime.stream.tail import TailStore

_CLAIMED = text("SELECT id, body FROM command_claims WHERE id = ANY(CAST(:ids AS uuid[]))")


class Store(Protocol):
    """Every coroutine raises Unavailable while the database is away."""

    def at_hand(self, held: Held, command: Command) -> Facts | None:
        """The facts of a command whose decision needs no look at the store; None if it does."""
        ...

    async def look(self, asked: Sequence[tuple[Held | None, Command]]) -> list[tuple[Held, Facts | None]]:
        """States of the sessions, where not held, and facts; None for a command that needs `gather`."""
        ...

    async def gather(self, snapshot: StateSnapshot, command: Command) -> Facts:
        """What a command's decision needs beyond the snapshot, however long that takes to read."""
        ...

    async def commit(self, fences: Fences, group: Sequence[Versioned]) -> list[OutboxItem]:
        """Write the group, all of it or nothing; returns the outbox rows written.

        Raises PartitionsLost when a partition or one of the sessions has another writer, RunIdTaken when a run id is
        another session's; after Unavailable nobody knows whether the group was written.
        """
        ...

    async def claimed(self, claims: Sequence[ClaimCheck]) -> list[Command | Refused]:
        """The commands that claims stand for; a refusal for one that is not there, or is another session's."""
        ...

    async def forget(self, session_id: UUID) -> None:
        """Drop what is kept of a deleted session outside the database."""
        ...


class PostgresStore:
    """The store of a real actor process; `connections` for what every command needs, `engine` for the rest."""

    def __init__(
        self,
        engine: AsyncEngine,
        connections: Connections,
        settings: Settings,
        tail: TailStore,
        heard_for: HeardFor = lambda _: True,
    ) -> None:
        self._engine, self._connections, self._settings, self._tail = engine, connections, settings, tail
        self._announce = settings.events.enabled
        self._hooks = Hooks.of(settings.webhooks)
        self._gatherer = Gatherer(settings, tail, heard_for)
        self._agents: tuple[Rows, Agents] = ((), Agents(settings, partial(_known, ())))

    def at_hand(self, held: Held, command: Command) -> Facts | None:
        return self._gatherer.at_hand(held, command)

    async def look(self, asked: Sequence[tuple[Held | None, Command]]) -> list[tuple[Held, Facts | None]]:
        unknown = [command.session_id for held, command in asked if held is None]
        found = await look(self._connections, unknown, [command for _, command in asked])
        agents = self._agents_of(found.agents)
        return [
            await self._facts(found, agents, held or found.sessions.get(command.session_id, NEW), command)
            for held, command in asked
        ]

    def _agents_of(self, rows: Rows) -> Agents:
        """Resolve configurations anew only when the rows of the agents have changed."""
        if rows != self._agents[0]:
            self._agents = (rows, Agents(self._settings, partial(_known, rows)))
        return self._agents[1]

    async def _facts(self, found: Found, agents: Agents, held: Held, command: Command) -> tuple[Held, Facts | None]:
        if self._gatherer.needs_long_reads(held.snapshot, command):
            return held, None
        at_hand = self.at_hand(held, command)
        return held, at_hand or await self._gatherer.gather(found, agents, held.snapshot, command)

    async def gather(self, snapshot: StateSnapshot, command: Command) -> Facts:
        async with connect(self._engine) as db:
            agents = Agents(self._settings, partial(fetch_rows, db))
            return await self._gatherer.gather(db, agents, snapshot, command)

    async def claimed(self, claims: Sequence[ClaimCheck]) -> list[Command | Refused]:
        async with connect(self._engine) as db:
            rows = await db.execute(_CLAIMED, {"ids": [claim.claim_id for claim in claims]})
            bodies = {row.id: bytes(row.body) for row in rows}
        return [_command(claim, bodies.get(claim.claim_id)) for claim in claims]

    async def commit(self, fences: Fences, group: Sequence[Versioned]) -> list[OutboxItem]:
        return await commit(self._connections, fences, group, announce=self._announce, hooks=self._hooks)

    async def forget(self, session_id: UUID) -> None:
        await self._tail.delete(session_id)


def _command(claim: ClaimCheck, body: bytes | None) -> Command | Refused:
    if body is None:
        return InvalidInput("the command that was left in the database is not there any more; send the request again")
    try:
        command = decode_command(body, MAX_CLAIM_BYTES)
    except Refused as error:
        return error
    if command.session_id != claim.session_id or isinstance(command, ClaimCheck):
        return InvalidInput("the command that was left in the database is another session's")
    return command


async def _known(rows: Rows) -> Rows:
    return rows
