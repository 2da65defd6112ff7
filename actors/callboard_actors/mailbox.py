"""One partition's sessions: their commands in order, one of each at work at a time.

In: envelopes, in the order of delivery. Out: work for the process's groups; replies and acknowledgements once that is
done, in that order for every command.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable
from uuid import UUID

from callboard_actors.groups import Groups, Work
from callboard_actors.sessions import Sessions
from callboard_actors.settle import Envelope, Unreadable, settle
from callboard_runtime.domain.commands import Command, FailRun, Reply, decode_command
from callboard_runtime.domain.ids import PARTITIONS
from callboard_runtime.errors import CallboardError

logger = logging.getLogger(__name__)


class PartitionMailboxes:
    """Owns a partition from its `partition_epoch` on, until it is closed or `lost` is set."""

    def __init__(self, partition: int, partition_epoch: int, groups: Groups) -> None:
        self.partition, self.partition_epoch = partition, partition_epoch
        self.lost = asyncio.Event()
        self.closing = False
        self._groups = groups
        self.sessions = Sessions(max(16, groups.services.settings.actors.cache_sessions // PARTITIONS))
        self._waiting: dict[UUID, deque[Work]] = {}  # the first of each is at work
        self._under_way = 0  # commands that are being read or committed right now
        self._idle = asyncio.Event()
        self._after: set[asyncio.Task[None]] = set()

    @property
    def waiting(self) -> int:
        """Commands that wait or are in work."""
        return sum(map(len, self._waiting.values()))

    def put(self, envelope: Envelope) -> None:
        """Take a message in; never blocks. What cannot be read is set aside with its reason, and the others go on."""
        try:
            command = decode_command(envelope.body)
        except CallboardError as error:
            self._settle(envelope, Unreadable(error), None)
            return
        work, waiting = Work(command, envelope, self), self._waiting.get(command.session_id)
        if waiting is None:
            self._waiting[command.session_id] = deque((work,))
            self._groups.add(work)
        else:
            waiting.append(work)

    async def close(self) -> None:
        """Wait for what is being committed and its replies; what still waits is left to the broker."""
        self.closing = True
        while self._under_way:
            self._idle.clear()
            await self._idle.wait()
        while self._after:
            await asyncio.wait(self._after)

    # -- from the groups -----------------------------------------------------------------------------------------------

    @property
    def gone(self) -> bool:
        """Whether its commands are nothing to this process any more."""
        return self.closing or self.lost.is_set()

    def begin(self) -> None:
        self._under_way += 1

    def end(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()

    def lose(self, why: str) -> None:
        """Another process writes here now: nothing more is decided."""
        logger.warning("partition %d: %s", self.partition, why, extra={"action": "partition_lost"})
        self.lost.set()

    def done(self, work: Work, outcome: Reply | BaseException) -> None:
        """Answer the command, and let its session's next one go to work."""
        if work.envelope is not None:
            self._settle(work.envelope, outcome, work.command)
        session_id = work.command.session_id
        waiting = self._waiting[session_id]
        waiting.popleft()
        if waiting:
            self._groups.add(waiting[0])
        else:
            del self._waiting[session_id]

    def _settle(self, envelope: Envelope, outcome: Reply | BaseException, command: Command | None) -> None:
        """A reply or an acknowledgement that fails is repeated by those who miss it, and keeps nobody else waiting."""
        try:
            settle(envelope, outcome, self._groups.services.replier, command)
        except Exception:
            logger.exception("not settled", extra={"action": "not_settled"})

    def give_up(self, work: Work, error: BaseException) -> None:
        """A bug: set the command aside, end the active run, and let the session go on."""
        if not isinstance(work.command, FailRun):
            why = f"The session's actor could not process {work.command.type}."
            failed = FailRun(session_id=work.command.session_id, error_code="ACTOR_FAILED", error_message=why)
            self._waiting[work.command.session_id].insert(1, Work(failed, None, self))
        self.done(work, error)

    def after(self, work: Awaitable[None]) -> None:
        """Have something done that a closing waits for."""
        task = asyncio.ensure_future(_quietly(work))
        self._after.add(task)
        task.add_done_callback(self._after.discard)


async def _quietly(work: Awaitable[None]) -> None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 - what comes after a commit is not needed for it
        logger.debug("not done: %r", error, extra={"action": "after_failed"})
