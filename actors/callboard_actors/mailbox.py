"""One partition's sessions: their commands in order, decided and committed in groups.

In: envelopes, in the order of delivery. Out: rows, replies and acknowledgements, in that order for every command.
Each session has at most one command in a group, so that a decision always sees its predecessor's commit.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from uuid import UUID

from callboard_actors import metrics, spans
from callboard_actors.commit import RunIdTaken, Versioned
from callboard_actors.decide import decide
from callboard_actors.evolve import evolve
from callboard_actors.facts import Facts
from callboard_actors.replies import Decided, answer
from callboard_actors.sessions import Held, Sessions
from callboard_actors.settle import Envelope, Replier, Unreadable, settle
from callboard_actors.store import Store
from callboard_actors.writes import OutboxItem
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import Command, FailRun, Reply, decode_command
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import CallboardError, FencedOut, Refused, Unavailable
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import NO_SPAN
from callboard_runtime.settings import Settings

logger = logging.getLogger(__name__)

TRIES = 3  # of a command that fails as a bug would, before it is set aside
PATIENCE = (0.05, 0.1, 0.25, 0.5, 1.0)  # seconds between tries while a service is away; the last one repeats


@dataclass(frozen=True, slots=True)
class Services:
    """What a partition works with; `committed` gets the outbox rows of each commit, right after it."""

    store: Store
    settings: Settings
    replier: Replier
    committed: Callable[[Sequence[OutboxItem]], None]


@dataclass(frozen=True, slots=True)
class Pending:
    """A command that waits; without an envelope it is the actor's own."""

    command: Command
    envelope: Envelope | None


@dataclass(frozen=True, slots=True)
class Outcome:
    pending: Pending
    result: Reply | BaseException


class PartitionMailboxes:
    """Owns a partition from its `partition_epoch` on, until it is closed or `lost` is set."""

    def __init__(self, partition: int, partition_epoch: int, services: Services) -> None:
        self.lost = asyncio.Event()
        self._partition = partition
        self._partition_epoch = partition_epoch
        self._services = services
        self._sessions = Sessions(services.store.load, max(16, services.settings.actors.cache_sessions // PARTITIONS))
        self._waiting: dict[UUID, deque[Pending]] = {}
        self._ready: deque[UUID] = deque()  # sessions with something waiting and nothing in work
        self._wake = asyncio.Event()
        self._closing = False
        self._after: set[asyncio.Task[None]] = set()
        self._task = asyncio.create_task(self._run(), name=f"partition-{partition}")

    @property
    def busy(self) -> bool:
        return bool(self._waiting)

    @property
    def waiting(self) -> int:
        """Commands that wait or are in work."""
        return sum(map(len, self._waiting.values()))

    def put(self, envelope: Envelope) -> None:
        """Take a message in; never blocks. What cannot be read is set aside with its reason, and the others go on."""
        try:
            command = decode_command(envelope.body)
        except CallboardError as error:
            self._later(settle(envelope, Unreadable(error), self._services.replier, None))
            return
        self._append(Pending(command, envelope))

    async def close(self) -> None:
        """Wait for the group in work and its replies, then stop; what still waits is left to the broker."""
        self._closing = True
        self._wake.set()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        if self._after:
            await asyncio.wait(self._after)

    def _append(self, pending: Pending) -> None:
        session_id = pending.command.session_id
        mailbox = self._waiting.get(session_id)
        if mailbox is None:
            self._waiting[session_id] = deque((pending,))
            self._ready.append(session_id)
            self._wake.set()
        else:
            mailbox.append(pending)

    async def _run(self) -> None:
        while not self._closing:
            if not self._ready:
                self._wake.clear()
                await self._wake.wait()
                continue
            group = self._take()
            try:
                await self._process(group)
            except FencedOut as error:
                logger.warning("partition %d: %s", self._partition, error, extra={"action": "partition_lost"})
                self.lost.set()
                return
            self._put_back(group)

    def _take(self) -> list[Pending]:
        """The first command of each ready session, up to a group."""
        size = min(len(self._ready), self._services.settings.actors.group_size)
        return [self._waiting[self._ready.popleft()][0] for _ in range(size)]

    def _put_back(self, group: Sequence[Pending]) -> None:
        for pending in group:
            session_id = pending.command.session_id
            mailbox = self._waiting[session_id]
            mailbox.popleft()
            if mailbox:
                self._ready.append(session_id)
            else:
                del self._waiting[session_id]

    async def _process(self, group: Sequence[Pending]) -> None:
        """Carry the group to its end, whatever is in the way; raises FencedOut only."""
        try:
            outcomes = await self._patiently(group)
        except FencedOut:
            raise
        except Exception as error:  # noqa: BLE001 - any other exception is a bug, or one command's conflict
            outcomes = await self._one_by_one(group, error)
        for outcome in outcomes:
            if outcome.pending.envelope is not None:
                envelope, command = outcome.pending.envelope, outcome.pending.command
                self._later(settle(envelope, outcome.result, self._services.replier, command))

    async def _patiently(self, group: Sequence[Pending]) -> list[Outcome]:
        """Try until the services that it needs are there."""
        tries = 0
        while True:
            try:
                return await self._decide_and_commit(group)
            except Unavailable as error:
                self._sessions.forget(pending.command.session_id for pending in group)
                if self._closing:
                    raise FencedOut("the partition is being closed while the database is away") from error
                logger.log(
                    logging.WARNING if tries == 0 else logging.DEBUG,
                    "partition %d holds %d commands: %s",
                    self._partition,
                    len(group),
                    error,
                    extra={"action": "commands_held"},
                )
                await asyncio.sleep(PATIENCE[min(tries, len(PATIENCE) - 1)])
                tries += 1

    async def _one_by_one(self, group: Sequence[Pending], error: Exception) -> list[Outcome]:
        """A failed group is tried command by command, so that one bad command costs the others nothing."""
        self._sessions.forget(pending.command.session_id for pending in group)
        outcomes: list[Outcome] = []
        for pending in group:
            outcomes += await self._alone(pending, error)
        return outcomes

    async def _alone(self, pending: Pending, error: Exception) -> list[Outcome]:
        for _ in range(TRIES):
            try:
                return await self._patiently([pending])
            except FencedOut:
                raise
            except Exception as again:  # noqa: BLE001 - a bug: set the command aside, let the session go on
                error = again
                self._sessions.forget([pending.command.session_id])
        self._give_up(pending)
        return [Outcome(pending, error)]

    def _give_up(self, pending: Pending) -> None:
        if isinstance(pending.command, FailRun):
            return
        why = f"The session's actor could not process {pending.command.type}."
        failed = FailRun(session_id=pending.command.session_id, error_code="ACTOR_FAILED", error_message=why)
        self._waiting[pending.command.session_id].insert(1, Pending(failed, None))

    async def _decide_and_commit(self, group: Sequence[Pending]) -> list[Outcome]:
        held = await self._sessions.read([pending.command.session_id for pending in group])
        store = self._services.store
        facts = await store.gather([(held[p.command.session_id].snapshot, p.command) for p in group])
        decided: list[Versioned] = []
        outcomes: list[Outcome] = []
        for pending, known in zip(group, facts, strict=True):
            before = held[pending.command.session_id]
            result = _decide(before, pending.command, known)
            if isinstance(result, Decided):
                trace = NO_SPAN if pending.envelope is None else pending.envelope.trace
                decided += [Versioned(result, before.version, trace)] if result.events else []
                outcomes.append(Outcome(pending, answer(result)))
            else:
                outcomes.append(Outcome(pending, result))
        await self._commit(decided)
        return outcomes

    async def _commit(self, decided: Sequence[Versioned]) -> None:
        """Write the group, even an empty one: an answer from memory is only true while the partition is ours."""
        began, since = time.time_ns(), time.perf_counter()
        try:
            outbox = await self._services.store.commit(self._partition, self._partition_epoch, decided)
        except RunIdTaken:
            logger.info("a run id was taken meanwhile", extra={"action": "run_id_taken"})
            metrics.COMMIT_FAILURES.labels("RunIdTaken").inc()
            raise
        except Exception as error:
            metrics.COMMIT_FAILURES.labels(type(error).__name__).inc()
            raise
        metrics.group_committed(decided, time.perf_counter() - since)
        if tracing.current is not None:
            spans.committed(decided, began, time.time_ns())
        for versioned in decided:
            session_id = versioned.decided.command.session_id
            self._sessions.replace(session_id, Held(versioned.decided.after, versioned.version + 1))
            if any(isinstance(event, e.SessionDeleted) for event in versioned.decided.events):
                self._later(self._services.store.forget(session_id))
        self._services.committed(outbox)

    def _later(self, work: object) -> None:
        task = asyncio.ensure_future(_quietly(work))  # pyright: ignore[reportArgumentType]
        self._after.add(task)
        task.add_done_callback(self._after.discard)


async def _quietly(work: object) -> None:
    """Replies and acknowledgements are repeated by those who miss them; a closed channel is nobody's error."""
    try:
        await work  # pyright: ignore[reportGeneralTypeIssues]
    except Exception as error:  # noqa: BLE001
        logger.debug("not settled: %r", error, extra={"action": "not_settled"})


def _decide(held: Held, command: Command, facts: Facts) -> Decided | Refused:
    try:
        events = decide(held.snapshot, command, facts)
    except Refused as error:
        return error
    after = held.snapshot
    for event in events:
        after = evolve(after, event)
    return Decided(command, facts, held.snapshot, after, events)
