"""Looks for what nobody will report: silent processes, passed deadlines, expired calls, what is past its time.

In: the database, every `actors.sweep` seconds, by one process at a time. Out: commands through the sessions' own
queues; the actor looks again before it acts, so a command too many changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, Protocol
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from callboard_actors import retention
from callboard_runtime.broker.connection import is_real_cancellation
from callboard_runtime.domain.commands import Command, EnforceDeadline, ExpireToolCalls, ReapAttempt
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import connect
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

LEADER_LOCK = 0x63616C6C  # any number that nothing else in this database locks
SEND_AGAIN = 5.0  # seconds until the same command is sent once more
EXPIRY_EVERY = 30.0  # seconds; oftener where calls expire sooner
CLEANUP_EVERY = 60.0  # seconds
FORGET_AFTER = 3600.0  # seconds of silence after which a process's row goes
BATCH = 500  # commands of one kind per sweep

_TAKE_LEAD = text("SELECT pg_try_advisory_lock(:key)")

_SILENT = text("""
SELECT a.session_id, a.run_id, a.attempt_id
FROM runs r
JOIN run_attempts a ON a.run_id = r.id AND a.ended_at IS NULL
LEFT JOIN processes p ON p.id = a.process
WHERE r.status IN ('running', 'cancelling') AND CASE
  WHEN p.id IS NULL THEN a.started_at < now() - make_interval(secs => :first_beat)
  WHEN p.beat_at < now() - make_interval(secs => :silent_after) THEN true
  ELSE NOT p.attempts @> to_jsonb(a.attempt_id::text)
       AND a.started_at < now() - make_interval(secs => :silent_after)
END
ORDER BY a.started_at LIMIT :batch
""")

_OVERDUE = text("""
SELECT session_id, id AS run_id FROM runs
WHERE status IN ('queued', 'running', 'cancelling') AND (deadline < now() OR cancel_by < now())
ORDER BY deadline LIMIT :batch
""")

_EXPIRED = text("""
SELECT s.id AS session_id FROM runs r
JOIN sessions s ON s.id = r.session_id
CROSS JOIN LATERAL jsonb_array_elements(s.state_snapshot->'pending_tool_calls') AS call
WHERE r.status = 'awaiting_input' AND (call->>'expires_at')::timestamptz < now()
  AND coalesce(call->>'status', 'PENDING_APPROVAL') IN ('PENDING_APPROVAL', 'PENDING_RESULT', 'OUTCOME_UNKNOWN')
GROUP BY s.id ORDER BY min((call->>'expires_at')::timestamptz) LIMIT :batch
""")

_FORGET = text("DELETE FROM processes WHERE beat_at < now() - make_interval(secs => :forget_after)")


class Teller(Protocol):
    """Delivers a command without waiting for its effect; raises Unavailable."""

    async def tell(self, command: Command) -> None: ...


class Sweeper:
    """One process's sweeper; the process that holds an advisory lock sweeps, the others wait for it to let go."""

    def __init__(self, engine: AsyncEngine, settings: Settings, commands: Teller) -> None:
        self._engine, self._commands = engine, commands
        self._sweep_every, self._silent_after = settings.actors.sweep, settings.actors.silent_after
        self._heartbeat = settings.worker.heartbeat
        self._expiry_every = min(EXPIRY_EVERY, settings.runs.tool_call_ttl / 4)
        self._kept = settings.retention
        self._told: dict[tuple[str, UUID], float] = {}  # what was sent -> when
        self._next: dict[str, float] = {}  # rarer duties -> when they are due
        self._reap_from = 0.0
        self._swept_at = 0.0

    async def run(self) -> None:
        """Sweep whenever this process is the leader, until cancelled; outages are waited out."""
        while True:
            try:
                await self._lead()
            except Unavailable as error:
                logger.info("the sweeper waits: %s", error, extra={"action": "sweeper_waits"})
            except Exception:
                logger.exception("sweeping failed", extra={"action": "sweeper_failed"})
            if is_real_cancellation():  # an outage in the same moment must not hide it
                raise asyncio.CancelledError
            await asyncio.sleep(self._sweep_every)

    async def _lead(self) -> None:
        """Try to become the leader, and sweep until the connection that holds the lock fails."""
        async with AsyncExitStack() as stack:
            connection = await stack.enter_async_context(connect(self._engine))
            connection = await connection.execution_options(isolation_level="AUTOCOMMIT")
            if not (await connection.execute(_TAKE_LEAD, {"key": LEADER_LOCK})).scalar_one():
                return
            # The lock goes with the connection, which must therefore not go back to the pool.
            stack.push_async_callback(connection.invalidate)
            logger.info("this process sweeps now", extra={"action": "sweeper_leads"})
            self._grace()
            while True:
                await self.sweep(connection)
                await asyncio.sleep(self._sweep_every)

    async def sweep(self, connection: AsyncConnection) -> None:
        """Look once and send what is due. `connection` must not be inside a transaction."""
        now = asyncio.get_running_loop().time()
        if now - self._swept_at > 3 * max(self._sweep_every, self._heartbeat):
            self._grace()
        if now >= self._reap_from:
            await self._reap(connection)
        await self._tell_all(connection, _OVERDUE, lambda row: (row.run_id, EnforceDeadline(**row._mapping)))
        await self._sometimes("expiry", self._expiry_every, lambda: self._expire(connection))
        await self._sometimes("retention", retention.EVERY, lambda: self._prune(connection))
        await self._sometimes("cleanup", CLEANUP_EVERY, lambda: self._clean_up(connection))
        self._swept_at = asyncio.get_running_loop().time()

    def _grace(self) -> None:
        """After an outage everybody looks silent: give the living two sweeps, and two heartbeats, to be heard."""
        self._reap_from = asyncio.get_running_loop().time() + 2 * max(self._sweep_every, self._heartbeat)

    async def _reap(self, connection: AsyncConnection) -> None:
        silence = {"silent_after": self._silent_after, "first_beat": 2 * self._heartbeat}
        await self._tell_all(connection, _SILENT, lambda row: (row.attempt_id, ReapAttempt(**row._mapping)), **silence)

    async def _expire(self, connection: AsyncConnection) -> None:
        await self._tell_all(connection, _EXPIRED, lambda row: (row.session_id, ExpireToolCalls(**row._mapping)))

    async def _prune(self, connection: AsyncConnection) -> None:
        commands, more = await retention.due(connection, self._kept)
        for command in commands:
            await self._tell(command.session_id, command)
        more_audit = await retention.forget_audit(connection, self._kept)
        more_claims = await retention.forget_claims(connection)
        if more or more_audit or more_claims:
            # Not at every sweep: a look goes through all old runs, and says nothing to a session twice before this.
            self._next["retention"] = asyncio.get_running_loop().time() + retention.SOON

    async def _clean_up(self, connection: AsyncConnection) -> None:
        await connection.execute(_FORGET, {"forget_after": FORGET_AFTER})
        before = asyncio.get_running_loop().time() - SEND_AGAIN
        self._told = {key: at for key, at in self._told.items() if at > before}

    async def _tell_all(
        self,
        connection: AsyncConnection,
        query: Any,
        command_of: Callable[[Any], tuple[UUID, Command]],
        **values: float,
    ) -> None:
        rows = (await connection.execute(query, {"batch": BATCH, **values})).all()
        for subject, command in map(command_of, rows):
            await self._tell(subject, command)

    async def _tell(self, subject: UUID, command: Command) -> None:
        key, now = (command.type, subject), asyncio.get_running_loop().time()
        if now - self._told.get(key, float("-inf")) < SEND_AGAIN:
            return
        try:
            await self._commands.tell(command)
        except Unavailable as error:
            logger.info("%s waits: %s", command.type, error, extra={"action": "sweeper_waits"})
            return
        self._told[key] = now
        logger.info("%s for %s", command.type, subject, extra={"action": "swept"})

    async def _sometimes(self, duty: str, every: float, step: Callable[[], Awaitable[None]]) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._next.get(duty, now):
            self._next[duty] = now + every
            await step()
