"""Redis and the lanes: the tail's rules as its Lua scripts have them, and a witness of all that readers could see."""

from __future__ import annotations

from uuid import UUID

from redis.exceptions import ConnectionError as RedisAway

from callboard_runtime.domain.event_batch import EventBatch, EventId
from callboard_runtime.errors import Unavailable
from callboard_runtime.stream.tail import TailResult
from simulation.processes import Outage, Process

Lines = dict[tuple[UUID, EventId], str]


class Streams:
    """Every session's stream, and every line that was ever shown under an id."""

    def __init__(self, outage: Outage) -> None:
        self.outage = outage
        self.entries: dict[UUID, dict[EventId, str | None]] = {}  # None: a fence
        self.shown: Lines = {}

    def append(self, session_id: UUID, batch: EventBatch, committed: int, create: bool) -> TailResult:
        stream = self.entries.get(session_id, {})
        newest = max(stream, default=None)
        epoch, seq = newest or EventId(-1, 0)
        if epoch > batch.epoch:
            return TailResult.FENCED
        if epoch < batch.epoch:
            if not create:
                return TailResult.EMPTY
            seq = 0
        if batch.first_seq > max(seq, committed) + 1:
            return TailResult.BEHIND
        fresh = batch.after(seq)
        stream = {at: line for at, line in stream.items() if at.epoch == batch.epoch} if fresh.lines else stream
        for offset, line in enumerate(fresh.lines):
            stream[EventId(batch.epoch, fresh.first_seq + offset)] = line
        self.entries[session_id] = stream
        self.witness(session_id, fresh)
        return TailResult.OK

    def fence(self, session_id: UUID, epoch: int) -> EventBatch | None:
        stream = self.entries.setdefault(session_id, {})
        if max(stream, default=EventId(0, 0)).epoch < epoch:
            stream[EventId(epoch, 0)] = None
        found: list[str] = []
        last: EventId | None = None
        for at in sorted((at for at in stream if at.epoch < epoch), reverse=True):
            line = stream[at]
            if line is None or (last is not None and at != EventId(last.epoch, last.seq - 1)):
                break
            found.append(line)
            last = at
        return EventBatch(epoch=last.epoch, first_seq=last.seq, lines=tuple(reversed(found))) if last else None

    def witness(self, session_id: UUID, batch: EventBatch) -> None:
        for offset, line in enumerate(batch.lines):
            self.shown.setdefault((session_id, EventId(batch.epoch, batch.first_seq + offset)), line)


class SimTail:
    """One process's way to Redis, in place of TailStore."""

    def __init__(self, streams: Streams, process: Process) -> None:
        self._streams, self._process = streams, process

    async def append(self, session_id: UUID, batch: EventBatch, *, committed: int, create: bool) -> TailResult:
        return await self._use(lambda: self._streams.append(session_id, batch, committed, create))

    async def fence(self, session_id: UUID, epoch: int) -> EventBatch | None:
        return await self._use(lambda: self._streams.fence(session_id, epoch))

    async def delete(self, session_id: UUID) -> None:
        await self._use(lambda: self._streams.entries.pop(session_id, None))

    async def close(self) -> None:
        pass

    async def _use(self, effect):  # type: ignore[no-untyped-def]
        try:
            return await self._process.call(lambda: self._streams.outage.use(effect))
        except Unavailable as error:
            raise RedisAway(str(error)) from error


class SimLanes:
    """One process's way to the lanes: what is published is seen, unless it is lost."""

    def __init__(self, streams: Streams, process: Process) -> None:
        self._streams, self._process = streams, process

    async def publish(
        self, session_id: UUID, run_id: UUID, leg: int, batch: EventBatch, previous: EventId, closing: bool = False
    ) -> None:
        await self._process.call(lambda: self._streams.witness(session_id, batch))

    async def poke(self, session_id: UUID, run_id: UUID | None = None) -> None:
        await self._process.point()
