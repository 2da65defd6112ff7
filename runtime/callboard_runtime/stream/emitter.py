"""The events of one attempt on their way to the readers: numbered, joined, then to Redis, then to the lane.

In:  AG-UI events, one by one
Out: EventBatches, each naming its predecessor; what is not committed yet is kept for the next command
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from uuid import UUID

from callboard_runtime.domain.event_batch import AguiEvent, EventBatch, EventId
from callboard_runtime.observe.worker import count_batch
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.ledger import EventLedger
from callboard_runtime.stream.tail import TailResult

logger = logging.getLogger(__name__)

LARGE_TAIL = 256 * 1024  # bytes of uncommitted events after which a commit is asked for
DRAIN_TIMEOUT = 5.0  # seconds

_AWAITED = frozenset({"TEXT_MESSAGE_START", "REASONING_MESSAGE_START"})
"""What someone looks forward to: it goes at once, with the first delta behind it, however fresh the last batch is."""


@dataclass(frozen=True, slots=True)
class Leg:
    """Whose events these are."""

    session_id: UUID
    run_id: UUID
    leg: int
    before: EventId  # the last event of the log before this epoch


def _nothing() -> None:
    pass


class EventEmitter:
    """Sends events in order, without ever holding up the caller.

    Publishes the opening first, with what is emitted in the same turn of the loop. The first event after a quiet moment
    and the beginning of a text go at once, then at most one batch in `window()` seconds. Belongs to one event loop.
    Without Redis the lane goes on; a `FENCED` tail ends everything.
    """

    def __init__(
        self,
        leg: Leg,
        opening: EventBatch,
        *,
        tail: GuardedTail,
        lanes: LanePublisher,
        window: Callable[[], float],
    ) -> None:
        """`opening` is the committed beginning of the epoch, not published yet; `window` in seconds."""
        self._leg, self._tail, self._lanes, self._window = leg, tail, lanes, window
        self._on_fenced = self._on_commit_wanted = _nothing
        self._ledger = EventLedger(opening)
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._pump: asyncio.Task[None] | None = None
        self._flushed_at = float("-inf")
        self._create = True  # the actor has just confirmed the epoch: the stream may be begun
        self._absent = True  # as far as is known, Redis does not have this epoch's stream
        self._held = False  # nothing is sent until a commit shows that the epoch is still ours
        self._stopped = False

    def attach(self, *, on_fenced: Callable[[], None], on_commit_wanted: Callable[[], None]) -> None:
        """Begin, with the opening.

        `on_fenced`: a newer epoch owns the session. `on_commit_wanted`: a commit is needed before more is sent, or to
        keep commands small.
        """
        self._on_fenced, self._on_commit_wanted = on_fenced, on_commit_wanted
        self._send()

    # -- what happened ------------------------------------------------------------------------------------------------

    def emit(self, event: AguiEvent) -> None:
        """Take the next event; it is numbered and sent soon."""
        if self._stopped:
            return
        self._ledger.add(event)
        if event["type"] in _AWAITED:
            self._cancel_timer()
            self._timer = self._loop.call_soon(self.flush)
        elif self._timer is None:
            self._timer = self._schedule()

    def _schedule(self) -> asyncio.Handle:
        now, window = self._loop.time(), self._window()
        if now >= self._flushed_at + window:
            return self._loop.call_soon(self.flush)
        # All attempts of a process flush at the same moments, so that their batches travel to Redis together.
        return self._loop.call_at((now // window + 1) * window, self.flush)

    def flush(self) -> None:
        """Number what was emitted and send it now."""
        self._cancel_timer()
        if self._stopped:
            return
        self._flushed_at = self._loop.time()
        self._ledger.seal()
        if self._ledger.uncommitted_bytes > LARGE_TAIL:
            self._on_commit_wanted()
        self._send()

    def pending(self) -> EventBatch | None:
        """Everything emitted that is not committed yet."""
        self.flush()
        return self._ledger.since(self._ledger.committed)

    def committed(self, seq: int) -> None:
        """The actor took a command of this epoch, and the log has its events up to `seq`."""
        self._ledger.mark_committed(seq)
        self._create, self._held = self._absent, False
        self._send()

    @property
    def wants_commit(self) -> bool:
        """Whether a commit is still needed before more is sent, or to keep commands small."""
        return self._held or self._ledger.uncommitted_bytes > LARGE_TAIL

    async def drain(self, timeout: float = DRAIN_TIMEOUT) -> None:
        """Wait until what was emitted is sent, or cannot be, at most `timeout` seconds."""
        self.flush()
        if self._pump is not None:
            await asyncio.wait((self._pump,), timeout=timeout)

    def stop(self) -> None:
        """Send nothing more, not even what waits."""
        self._stopped = True
        self._cancel_timer()
        if self._pump is not None and self._pump is not asyncio.current_task(self._loop):
            self._pump.cancel()

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- sending ------------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        if self._pump is None and self._ledger.unsent and not (self._held or self._stopped):
            self._pump = self._loop.create_task(self._send_all(), name="event-pump")

    async def _send_all(self) -> None:
        self._ledger.seal()  # what was emitted since this was planned may as well come along
        try:
            while not (self._held or self._stopped):
                batch = self._ledger.since(self._ledger.sent)
                if batch is None:
                    break
                await self._send_batch(batch)
        except Exception:
            logger.exception("events of run %s wait for the commits", self._leg.run_id, extra={"action": "emit_failed"})
            self._held = True
        finally:
            self._pump = None

    async def _send_batch(self, batch: EventBatch) -> None:
        result = await self._append(batch)
        if result is TailResult.BEHIND:
            result = await self._append(self._ledger.since(self._ledger.committed, upto=batch.last_seq) or batch)
        if result is TailResult.FENCED:
            self.stop()
            self._on_fenced()
        elif result is TailResult.EMPTY:
            # Redis lost the stream, or this is a ghost whose epoch is over: only a commit can tell.
            self._held = True
            self._on_commit_wanted()
        else:
            await self._publish(batch)

    async def _append(self, batch: EventBatch) -> TailResult | None:
        create, self._create = self._create, False
        committed = self._ledger.committed
        result = await self._tail.append(self._leg.session_id, batch, committed=committed, create=create)
        count_batch(result.value if result else "AWAY", len(batch.lines) if result in (None, TailResult.OK) else 0)
        self._absent = result is None or result is TailResult.EMPTY or (self._absent and result is not TailResult.OK)
        return result

    async def _publish(self, batch: EventBatch) -> None:
        previous = EventId(batch.epoch, batch.first_seq - 1) if batch.first_seq > 1 else self._leg.before
        await self._lanes.publish(self._leg.session_id, self._leg.run_id, self._leg.leg, batch, previous, closing=False)
        self._ledger.mark_sent(batch.last_seq)
