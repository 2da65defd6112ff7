"""The sessions of one process at work: read, decided and committed in groups, over all partitions that it owns.

In: the first waiting command of each session. Out: what came of it, handed back to its partition once it is durable.
What waits while a group is under way is the next group. A group that fails is retried command by command.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from callboard_actors import metrics, spans
from callboard_actors.commit import PartitionsLost, Versioned
from callboard_actors.decide import take_turn
from callboard_actors.facts import Facts
from callboard_actors.replies import Decided, answer
from callboard_actors.sessions import NEW, Held, Sessions
from callboard_actors.settle import Envelope, Replier
from callboard_actors.stage import Stage
from callboard_actors.store import Store
from callboard_actors.writes import OutboxItem
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import ClaimCheck, Command, Reply
from callboard_runtime.domain.events import SUPERSEDED
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.errors import Refused
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import NO_SPAN
from callboard_runtime.settings import Settings

TRIES = 3  # of a command that fails as a bug would, before it is set aside
COMMITS = 2  # under way at once, the second one only for a full group
READS = 1  # reads under way at once
LONG_READS = 4  # the same, of commands that need several reads or Redis
CLAIMS = 4  # large commands fetched at once
SMALL = 4096  # bytes of a command that its session may hold on to: there are thousands of sessions in memory
CONNECTIONS = COMMITS + READS


@dataclass(frozen=True, slots=True)
class Services:
    """What sessions are worked on with; `committed` gets the outbox rows of each commit, right after it."""

    store: Store
    settings: Settings
    replier: Replier
    committed: Callable[[Sequence[OutboxItem]], None]


class Home(Protocol):
    """A partition as its work sees it."""

    partition: int
    partition_epoch: int
    sessions: Sessions

    @property
    def gone(self) -> bool: ...
    def begin(self) -> None: ...
    def end(self) -> None: ...
    def lose(self, why: str) -> None: ...
    def done(self, work: Work, outcome: Reply | BaseException) -> None: ...
    def give_up(self, work: Work, error: BaseException) -> None: ...
    def after(self, work: Awaitable[None]) -> None: ...


@dataclass(eq=False, slots=True)
class Work:
    """A command on its way; without an envelope it is the actor's own."""

    command: Command
    envelope: Envelope | None
    home: Home
    alone: bool = False  # it was in a group that failed
    large: bool = False  # it was fetched: too large for a message
    failures: int = 0
    held: Held = NEW
    decided: Versioned | None = None
    outcome: Reply | BaseException = field(default_factory=Reply)


class Groups:
    """The work of one process."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._store, size = services.store, services.settings.actors.group_size
        self._silent_after = timedelta(seconds=services.settings.actors.silent_after)
        self._fresh: list[Work] = []
        self._claims = Stage(1, CLAIMS, self._fetch, self._again, self._failed)
        self._looks = Stage(READS, size, self._look, self._again, self._failed, may_go_on=self._may_look)
        self._gathers = Stage(LONG_READS, 1, self._gather, self._again, self._failed)
        # What comes during a commit is the next one: few large ones cost less than many small.
        self._commits = Stage(COMMITS, size, self._write, self._again, self._failed, taken=self._commit_taken)
        self._ahead = False  # what was looked up last still waits for its commit

    def add(self, work: Work) -> None:
        """Begin with a command at the end of this turn of the event loop, together with all that came in it."""
        if not self._fresh:
            asyncio.get_running_loop().call_soon(self._begin)
        self._fresh.append(work)

    def _begin(self) -> None:
        fresh, self._fresh = self._fresh, []
        for work in fresh:
            if isinstance(work.command, ClaimCheck):
                self._claims.add(work)
                continue
            held = work.home.sessions.get(work.command.session_id)
            facts = self._store.at_hand(held, work.command) if held is not None else None
            if held is None or facts is None:
                self._looks.add(work)
            else:
                work.held = held
                self._decide(work, facts)
        self._claims.pump()
        self._looks.pump()
        self._commits.pump()

    async def _fetch(self, group: Sequence[Work]) -> None:
        """Put the large commands that wait in the database in their claims' places."""
        claims = [work.command for work in group if isinstance(work.command, ClaimCheck)]
        for work, found in zip(group, await self._store.claimed(claims), strict=True):
            if isinstance(found, Refused):
                work.outcome = found
                self._commits.add(work)
            else:
                work.command, work.large = found, True
                self.add(work)
        self._commits.pump()

    async def _look(self, group: Sequence[Work]) -> None:
        """Read what the group's commands need, in one look."""
        asked = [(work.home.sessions.get(work.command.session_id), work.command) for work in group]
        for work, (held, facts) in zip(group, await self._store.look(asked), strict=True):
            work.held = held
            if held.version:
                work.home.sessions.replace(work.command.session_id, held)
            if facts is None:
                self._gathers.add(work)
            else:
                self._decide(work, facts)
        self._ahead = self._commits.waits
        self._gathers.pump()
        self._commits.pump()

    async def _gather(self, group: Sequence[Work]) -> None:
        for work in group:
            self._decide(work, await self._store.gather(work.held.snapshot, work.command))
        self._commits.pump()

    def _decide(self, work: Work, facts: Facts) -> None:
        try:
            work.decided, work.outcome = _decided(work, facts)
        except Refused as error:
            work.decided, work.outcome = None, error
        except Exception as error:  # noqa: BLE001 - a bug, and of this command alone
            self._failed([work], error)
            return
        self._commits.add(work)

    def _may_look(self) -> bool:
        """One look per commit: another one could not be committed any sooner, and meanwhile more joins it."""
        return not self._ahead

    def _commit_taken(self) -> None:
        self._ahead = False
        self._looks.pump()

    async def _write(self, group: Sequence[Work]) -> None:
        """Commit the group, without the partitions that turn out to be another process's."""
        left = self._timely(group)
        while left:
            try:
                await self._commit(left)
            except PartitionsLost as lost:
                left = _without(left, lost)
            else:
                break
        for work in left:
            work.home.done(work, work.outcome)

    def _timely(self, group: Sequence[Work]) -> list[Work]:
        """The group without those that took a silent attempt's run so long ago that it may be back: they look again."""
        since = utcnow() - self._silent_after
        late = [work for work in group if work.decided and _robs(work.decided.decided, since)]
        if late:
            self._again(late)
        return [work for work in group if work not in late]

    async def _commit(self, group: Sequence[Work]) -> None:
        """Write the group, even an empty one: an answer from memory is only true while the partition is ours."""
        fences = {work.home.partition: work.home.partition_epoch for work in group}
        decided = [work.decided for work in group if work.decided is not None]
        with _counted(decided):
            outbox = await self._store.commit(fences, decided)
        for work in group:
            if work.decided is not None:
                self._keep(work, work.decided.decided, work.decided.version + 1)
        self.services.committed(outbox)

    def _keep(self, work: Work, decided: Decided, version: int) -> None:
        session_id = work.command.session_id
        work.home.sessions.replace(session_id, Held(decided.after, version, _untried(work, decided)))
        if any(isinstance(event, e.SessionDeleted) for event in decided.events):
            work.home.after(self._store.forget(session_id))

    def _again(self, group: Sequence[Work]) -> None:
        """A service was away: from the start, for nobody knows what took effect."""
        for work in group:
            work.home.sessions.forget([work.command.session_id])
            self.add(work)

    def _failed(self, group: Sequence[Work], error: Exception) -> None:
        """A failed group is tried command by command, so that one bad command costs the others nothing."""
        for work in group:
            work.home.sessions.forget([work.command.session_id])
            work.failures += work.alone
            work.alone = True
            if work.failures < TRIES:
                self.add(work)
            else:
                work.home.give_up(work, error)


def _decided(work: Work, facts: Facts) -> tuple[Versioned | None, Reply]:
    turn = take_turn(work.held.snapshot, work.command, facts)
    decided = Decided(work.command, facts, work.held.snapshot, turn.snapshot, turn.events)
    trace = NO_SPAN if work.envelope is None else work.envelope.trace
    return Versioned(decided, work.held.version, trace) if turn.events else None, answer(decided)


def _untried(work: Work, decided: Decided) -> RunInput | None:
    """What the run was asked that was accepted and is active now; None if it is too large to be held in memory."""
    active = decided.after.active
    if work.large or work.envelope is None or len(work.envelope.body) > SMALL:
        return None
    accepted = (event for event in decided.events if isinstance(event, e.RunAccepted))
    begins = (event.input for event in accepted if active is not None and event.run.run_id == active.run_id)
    return next(begins, None)


def _robs(decided: Decided, since: datetime) -> bool:
    """Whether it ends another attempt, as things were before `since`."""
    ended = (event.outcome for event in decided.events if isinstance(event, e.AttemptEnded))
    return decided.facts.now < since and SUPERSEDED in ended


@contextmanager
def _counted(decided: Sequence[Versioned]) -> Generator[None]:
    """Count the commit inside, and show it in the traces of its commands."""
    began, since = time.time_ns(), time.perf_counter()
    try:
        yield
    except Exception as error:
        metrics.COMMIT_FAILURES.labels(type(error).__name__).inc()
        raise
    metrics.group_committed(decided, time.perf_counter() - since)
    if tracing.current is not None:
        spans.committed(decided, began, time.time_ns())


def _without(group: Sequence[Work], lost: PartitionsLost) -> list[Work]:
    homes = {work.home.partition: work.home for work in group if work.home.partition in lost.partitions}
    if not homes:
        raise lost
    for home in homes.values():
        home.lose(str(lost))
    return [work for work in group if work.home.partition not in homes]
