"""One reader of one leg.

In:  the committed log, then the tail in Redis, then live chunks.
Out: chunks in the order of the log, none twice, none missing, the last one closing; None whenever nothing came for a
     heartbeat. What an attempt showed and nobody committed is withdrawn by closings without ids.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from math import inf

from redis.exceptions import RedisError

from callboard_http.chunk import Chunk
from callboard_http.event_log import EventLog, LegKey, LegPage, SessionKey
from callboard_http.hub import EventHub, Subscription
from callboard_http.prelude import Prelude, terminal
from callboard_http.tail_reads import MOST_LINES, TailReads
from callboard_http.withdrawal import Memory, Shown, closings, without_leading_closings
from callboard_runtime.agui.run_events import run_error, run_started
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import Unavailable

logger = logging.getLogger(__name__)

FIRST_LOOK, LONGEST_LOOK = 0.1, 2.0  # seconds between two looks at the log while something is known to be missing
SOON = 4  # looks in a row that find the tail unreadable before the next one waits for a heartbeat
DEAF_LOOK = 1.0  # seconds between two looks while nothing can arrive live
BEAT = 0.5  # seconds: heartbeats are due at multiples of it
FRESH_LOOK = 3.0  # seconds until the log of a leg is read that had nothing in it a moment ago


@dataclass(frozen=True, slots=True)
class Sources:
    """Where readers read; without a tail, events arrive live and with the commits."""

    log: EventLog
    tail: TailReads | None
    hub: EventHub
    memory: Memory = field(default_factory=Memory)


class LegReader:
    """Follows a leg from `after` to its closing event; `0-0` follows it from its start.

    The `prelude` is sent before anything else. Of a `fresh` leg, which nobody had begun a moment ago, the log is not
    read before something is missing. `heartbeat` is in seconds, and so is `lasting`, after which the reader stops.
    Holds at most `buffer` bytes of live chunks, and one page of the log.
    """

    __slots__ = (
        "_announced",
        "_begun",
        "_blind",
        "_buffer",
        "_ended",
        "_fresh",
        "_heartbeat",
        "_key",
        "_live",
        "_loop",
        "_misses",
        "_next_look",
        "_prelude",
        "_ready",
        "_shown",
        "_sources",
        "_stopped",
        "_tail_unread",
        "_until",
        "position",
    )

    def __init__(
        self,
        sources: Sources,
        key: LegKey | SessionKey,
        *,
        after: EventId,
        heartbeat: float,
        buffer: int,
        prelude: Prelude | None = None,
        lasting: float = inf,
        fresh: bool = False,
    ) -> None:
        self.position = after
        self._sources, self._key = sources, key
        self._heartbeat, self._buffer = heartbeat, buffer
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + lasting
        self._live = Subscription(key, buffer)
        self._ready: list[Chunk] = []
        self._shown = Shown()
        self._begun = self._ended = self._stopped = self._blind = self._tail_unread = False
        self._fresh = fresh  # what comes live may be all there is
        self._misses = 0  # looks in a row that found nothing of what is known to be missing
        self._next_look = 0.0
        self._prelude = prelude.chunks if prelude else []
        self._announced = prelude is not None and prelude.announced
        if prelude and prelude.unsure is not None:
            self._shown.add(prelude.unsure)

    async def chunks(self) -> AsyncGenerator[Chunk | None]:
        """Every chunk of the leg, None for a heartbeat; ends after the closing event, or after `stop`.

        It also ends when this reader has to be told anew where the leg stands. Never raises for an outage.
        """
        while self._prelude:
            yield self._prelude.pop(0)
        try:
            heard = await self._sources.hub.add(self._live)
            self._fresh &= heard
            self._live.look |= not self._fresh
            while not (self._ended or self._stopped or self._loop.time() >= self._until):
                if self._ready:
                    if chunk := self._send(self._ready.pop(0)):
                        yield chunk
                elif self._live.look:
                    await self._look()
                elif chunk := self._live.take():
                    self._fit(chunk)
                elif not await self._live.wait(self._patience()):
                    self._live.look = await self._ought_to_look()
                    yield None
        finally:
            self._sources.hub.remove(self._live)
            self._sources.memory.keep(self._key.session_id, self._shown.chunks)

    @property
    def trace(self) -> str | None:
        """The span that sent what arrives live, if it is traced."""
        return self._live.trace

    def stop(self) -> None:
        """End soon, wherever the leg stands."""
        self._stopped = True
        self._live.poke()

    def _send(self, chunk: Chunk) -> Chunk | None:
        """Note that a chunk is sent; what the reader has been told already is left out."""
        if chunk.logged:
            self.position, self._begun = chunk.last, True
        self._ended = self._ends_with(chunk)
        return chunk.without_start() if self._announced else chunk

    def _ends_with(self, chunk: Chunk) -> bool:
        return chunk.closing

    # -- live ---------------------------------------------------------------------------------------------------------

    def _fit(self, chunk: Chunk) -> None:
        """Take what of a live chunk comes next; if something before it is missing, the log will have both."""
        if chunk.last <= self.position:
            return
        if self._continues(chunk):
            self._misses = 0
            self._show(chunk.after(self.position.seq) if chunk.epoch == self.position.epoch else chunk)
        elif self._loop.time() >= self._next_look:
            self._live.look = True

    def _continues(self, chunk: Chunk) -> bool:
        if chunk.epoch == self.position.epoch:
            return chunk.first <= self.position.seq + 1
        if self.position == ORIGIN:
            return chunk.first == 1 and chunk.opens_leg
        return chunk.first == 1 and chunk.previous == self.position

    def _show(self, chunk: Chunk) -> None:
        """Send what may not be committed yet, and remember it until it is known to be."""
        self._ready.append(chunk)
        self._shown.add(chunk)
        if self._shown.held > self._buffer and self._loop.time() >= self._next_look:
            self._live.look = True

    # -- the log and the tail -----------------------------------------------------------------------------------------

    async def _look(self) -> None:
        """Read the next page of the log and, behind its end, the tail."""
        self._live.look = self._fresh = False
        before = self.position
        try:
            page = await self._sources.log.page(self._key, before)
            self._blind = False
            if page is None or page.gone:
                self._ready.append(_deleted())
            elif page.over_without_end:
                self._announced |= self._begun
                self._ready.append(_told_from_row(page))
            else:
                await self._take_page(page)
        except Unavailable:
            self._blind = True
        self._plan_next_look()

    async def _take_page(self, page: LegPage) -> None:
        chunks = list(page.chunks)
        if chunks and chunks[0].epoch > self.position.epoch:
            chunks = await self._withdrawn(page, chunks)
        elif page.log.epoch == self.position.epoch:
            self._shown.committed(page.log)
        self._ready.extend(chunks)
        if not page.complete:
            self._live.look = True
        elif page.end is not None and page.end <= self.position:
            self._ended = True  # placed behind the closing event: nothing is left to wait for
        else:
            await self._read_tail(page)

    async def _withdrawn(self, page: LegPage, chunks: list[Chunk]) -> list[Chunk]:
        """The chunks of a new epoch, for a reader who may have seen more of the old one than was committed.

        What it saw may have been shown by another connection of this front; if nobody knows it, the reader is stopped.
        """
        committed, memory = EventId(self.position.epoch, page.committed), self._sources.memory
        memory.keep(self._key.session_id, self._shown.chunks)
        self._shown.clear()
        if self.position <= committed:
            return chunks
        lost = memory.between(self._key.session_id, committed, self.position)
        if lost is None:
            self._stopped = True
            return []
        own = closings(await self._epoch_upto(committed), lost)
        rest = without_leading_closings(chunks)
        return [own, *rest] if own else rest

    async def _epoch_upto(self, last: EventId) -> list[Chunk]:
        """The committed chunks of one epoch up to `last`: nothing stays open from one epoch to the next."""
        found: list[Chunk] = []
        position = EventId(last.epoch, 0)
        while position < last:
            page = await self._sources.log.page(self._key, position)
            found += [chunk for chunk in page.chunks if chunk.last <= last] if page else []
            if page is None or page.complete:
                break
            position = page.chunks[-1].last
        return found

    async def _read_tail(self, page: LegPage) -> None:
        """What the session's present epoch sent beyond the log; nothing at a hole, and nothing without Redis."""
        newest, tail = self._ready[-1] if self._ready else None, self._sources.tail
        unread, self._tail_unread = self._tail_unread, False
        position = newest.last if newest else self.position
        if tail is None or position == ORIGIN or position.epoch != page.log.epoch or (newest and newest.closing):
            return
        try:
            batch = await tail.after(self._key.session_id, position)
        except (RedisError, OSError, TimeoutError, Unavailable) as error:
            level = logging.DEBUG if unread else logging.WARNING
            logger.log(level, "tail not read: %r", error, extra={"action": "tail_not_read"})
            self._tail_unread = True
            return
        if batch is not None and batch.first_seq == position.seq + 1:
            self._show(Chunk.of_batch(batch))
            self._live.look |= len(batch.lines) == MOST_LINES  # there is more

    # -- when to look again -------------------------------------------------------------------------------------------

    def _plan_next_look(self) -> None:
        """While a hole stays open, look at growing intervals; a live chunk does not hasten it."""
        if self._ready:
            self._misses = 0
        pause = min(LONGEST_LOOK, FIRST_LOOK * 2**self._misses)
        self._next_look = self._loop.time() + pause
        if not self._ready:
            self._misses = min(self._misses + 1, 10)

    def _behind(self) -> bool:
        if self._blind or self._live.newest > self.position:
            return True
        # What the tail holds may be all that comes for a while: try again soon, then at heartbeats.
        return self._tail_unread and self._misses <= SOON

    def _patience(self) -> float:
        """Seconds to wait for something live. Heartbeats of many readers fall together, and share their reads."""
        now = self._loop.time()
        if self._behind():
            return max(0.001, self._next_look - now)
        patience = self._heartbeat if self._sources.hub.connected else min(self._heartbeat, DEAF_LOOK)
        if self._fresh and not self._begun:
            return min(patience, FRESH_LOOK)
        return max(0.001, min(patience - now % min(BEAT, patience / 4), self._until - now))

    async def _ought_to_look(self) -> bool:
        """After a silence: whether the log knows more than this reader."""
        if self._behind() or self._tail_unread or not self._begun:
            return True
        try:
            log = await self._sources.log.position(self._key.session_id)
        except Unavailable:
            return False
        if log is not None and log.epoch == self.position.epoch:
            self._shown.committed(log)
        return log is None or log > self.position


class SessionReader(LegReader):
    """Follows all runs of a session, in the order of its log, until `stop`; `0-0` follows it from its first event.

    A run that ended before it had a worker has no events.
    """

    __slots__ = ()

    def _ends_with(self, chunk: Chunk) -> bool:
        return chunk.closing and not chunk.logged  # of a deleted session

    def _continues(self, chunk: Chunk) -> bool:
        if chunk.epoch == self.position.epoch:
            return chunk.first <= self.position.seq + 1
        return chunk.first == 1 and chunk.previous == self.position

    async def _ought_to_look(self) -> bool:
        self._begun = True  # a session is there from its first event on
        return await super()._ought_to_look()


def _deleted() -> Chunk:
    return Chunk.unlogged(run_error("The session was deleted.", "SESSION_DELETED"), closing=True)


def _told_from_row(page: LegPage) -> Chunk:
    """The start and the end of a run whose log has no end of this leg."""
    started = run_started(page.thread_id, page.client_run_id)
    status = page.status or RunStatus.FAILED
    ended = terminal(page.thread_id, page.client_run_id, status, page.error_code, page.error_message)
    return Chunk.unlogged(started, ended, closing=True)
