"""One attempt at a run: its commands in order, each with the events since the last, until it ends or loses the epoch.

In:  steps that begin and are recorded, and the emitter's events
Out: commands with the ordinals 1, 2, 3…, one at a time
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import random
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import orjson

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.crew.pause import RunReleased
from callboard_runtime.domain.commands import (
    MAX_COMMAND_BYTES,
    AppendEvents,
    AttemptCommand,
    BeginStep,
    FinishRun,
    RecordStep,
    ReleaseRun,
    RequestTools,
    StepAnswer,
    StepBegin,
    StepRecord,
    encode_command,
)
from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.entry.held import Carrier, HeldWork, Work
from callboard_runtime.errors import CallboardError, Fenced, RunCancelling, StaleEpoch, Unavailable
from callboard_runtime.faults import fault_point
from callboard_runtime.stream.emitter import EventEmitter, Leg

logger = logging.getLogger(__name__)

REPLY_TIMEOUT = 15.0  # seconds until a command without reply is sent again
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0  # seconds between two tries
PAST_DEADLINE = 60.0  # seconds after the run's deadline in which its end is still worth telling
MOST_EVENTS = 700 * 1024  # bytes of events that one command may carry

T = TypeVar("T")

_REPLAYED = frozenset({"recorded", "failed", "unknown"})


class Halt(enum.IntEnum):
    """Why an attempt is to stop; a higher reason replaces a lower one."""

    SHUTDOWN = 1  # at the next step boundary
    DEADLINE = 2
    CANCELLED = 3
    LOST = 4  # another attempt holds the run: nothing may be published or committed


@dataclass(frozen=True, slots=True)
class Hold:
    """What the actor granted: this leg, under this epoch, until then."""

    leg: Leg
    epoch: int
    deadline: datetime | None


class Attempt:
    """The journal of a run, and the only sender of its commands. Belongs to one event loop.

    A command is repeated, unchanged, until it is answered: database, broker or actor may be away until a minute past
    the run's deadline. A caller that is cancelled leaves its command to be finished behind it.
    """

    def __init__(
        self, hold: Hold, commands: CommandClient, emitter: EventEmitter, journal: Iterable[JournalRow] = ()
    ) -> None:
        self._hold, self._commands, self._emitter = hold, commands, emitter
        self._rows = {row.key: row for row in journal if row.status in _REPLAYED}
        self._unasked = {row.key: None for row in self._rows.values() if row.status == "recorded"}
        self._ordinal = 0  # of the last command that took effect
        self._lock = asyncio.Lock()
        self._held = HeldWork(self._send_held_soon)
        self._committing: asyncio.Task[Any] | None = None
        self._sending: set[asyncio.Task[Any]] = set()
        self._ending = False
        self.halt_reason: Halt | None = None
        self._on_halt: Callable[[Halt], None] | None = None
        emitter.attach(on_fenced=self._overtaken, on_commit_wanted=self._commit_soon)

    @property
    def hold(self) -> Hold:
        return self._hold

    # -- the journal --------------------------------------------------------------------------------------------------

    async def begin(self, *steps: StepBegin) -> None:
        """Ask to start steps; returns once that is committed.

        Raises StaleEpoch, RunCancelling, RunReleased when this worker shuts down, Unavailable past the deadline.
        """
        self._check_not_halted()
        answer = await self._ordered(lambda frame: BeginStep(**frame, steps=steps))
        if answer.cancelling:
            self.halt(Halt.CANCELLED)
            raise RunCancelling

    async def record(self, *records: StepRecord, messages: Sequence[NewMessage] = (), state: Any = None) -> None:
        """Record what steps came to, with the messages they made and the state.

        Returns once that is committed, or, for a model's answer, once it is sure to be committed before or with
        whatever comes next: the command of the next step or of the end takes it along. Works while the run is being
        cancelled, too. Raises StaleEpoch, TooLarge, Unavailable past the deadline.
        """
        lost = self.halt_reason is Halt.LOST
        if state is None and not lost and self._held.hold(Work(records, tuple(messages))):
            return
        await self._record(records, tuple(messages), state)

    def find(self, key: str) -> JournalRow | None:
        """What an earlier attempt came to in this step, if anything."""
        self._unasked.pop(key, None)
        return self._rows.get(key)

    def unreplayed(self) -> tuple[str, ...]:
        """The keys of recorded steps that nobody has asked for yet, in the order of their commits."""
        return tuple(self._unasked)

    # -- the end of the attempt ---------------------------------------------------------------------------------------

    async def finish(self, *, error_code: str | None = None, error_message: str | None = None) -> None:
        """End the run, successfully unless `error_code` says otherwise; sends what was emitted before."""
        status = RunStatus.FAILED if error_code else RunStatus.SUCCEEDED
        await self._last(
            lambda frame: FinishRun(**frame, status=status, error_code=error_code, error_message=error_message)
        )

    async def request_tools(
        self,
        calls: Sequence[PendingToolCall],
        *,
        records: Sequence[StepRecord] = (),
        messages: Sequence[NewMessage] = (),
        state: Any = None,
    ) -> None:
        """Pause the run until these calls are answered."""
        await self._last(
            lambda frame: RequestTools(
                **frame, calls=tuple(calls), records=tuple(records), messages=tuple(messages), state=state
            )
        )

    async def release(self) -> None:
        """Give the run back, so that the next attempt starts at once."""
        await self._last(lambda frame: ReleaseRun(**frame))

    def halt(self, reason: Halt) -> None:
        """Let no further step begin, and say so to who conducts the attempt."""
        if self.halt_reason is None or reason > self.halt_reason:
            self.halt_reason = reason
            if self._on_halt is not None:
                self._on_halt(reason)

    def on_halt(self, callback: Callable[[Halt], None]) -> None:
        """Call `callback` with every reason to stop, at once with the one there is."""
        self._on_halt = callback
        if self.halt_reason is not None:
            callback(self.halt_reason)

    async def close(self) -> None:
        """Send and publish nothing more, whoever still asks for it."""
        self._on_halt = None
        self._lose()
        self._held.drop()
        for task in (*self._sending, self._committing):
            if task is not None:
                task.cancel()

    # -- sending ------------------------------------------------------------------------------------------------------

    async def _record(
        self, records: tuple[StepRecord, ...] = (), messages: tuple[NewMessage, ...] = (), state: Any = None
    ) -> None:
        answer = await self._ordered(lambda frame: RecordStep(**frame, records=records, messages=messages, state=state))
        if answer.cancelling:
            self.halt(Halt.CANCELLED)

    def _send_held_soon(self) -> None:
        self._start(self._send_held())

    async def _send_held(self) -> None:
        """Record what was held back, unless a command on its way takes it along."""
        async with self._lock:
            pass
        if self._held:
            with contextlib.suppress(CallboardError):  # the next command meets it, too
                await self._record()

    async def _last(self, make: Callable[[dict[str, Any]], Carrier]) -> None:
        fault_point("before_end")
        self._ending = True
        await self._ordered(make)
        fault_point("after_end")
        await self._emitter.drain()
        self._emitter.stop()

    def _check_not_halted(self) -> None:
        match self.halt_reason:
            case Halt.LOST:
                raise StaleEpoch
            case Halt.CANCELLED:
                raise RunCancelling
            case Halt.SHUTDOWN:
                raise RunReleased
            case Halt.DEADLINE:
                raise RunCancelling("the run's deadline has passed")
            case None:
                return

    async def _ordered(self, make: Callable[[dict[str, Any]], Carrier]) -> StepAnswer:
        """Send one command after those before it; a cancelled caller does not take the command back."""
        return await asyncio.shield(self._start(self._one_at_a_time(make)))

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name="attempt-command")
        self._sending.add(task)
        task.add_done_callback(self._sent)
        return task

    def _sent(self, task: asyncio.Task[Any]) -> None:
        self._sending.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone; this marks it as seen

    async def _one_at_a_time(self, make: Callable[[dict[str, Any]], Carrier]) -> StepAnswer:
        async with self._lock:
            held = self._held.take()

            def make_all(frame: dict[str, Any]) -> Carrier:
                return held.on(make(frame))

            try:
                answer = await self._send(make_all, await self._send_surplus(make_all))
            except CallboardError:
                self._held.put_back(held)
                raise
            self._held.sent()
            return answer

    async def _send_surplus(self, make: Callable[[dict[str, Any]], AttemptCommand]) -> EventBatch | None:
        """Send ahead what does not fit into the command; returns what does."""
        pending = self._emitter.pending()
        room = MOST_EVENTS
        if pending is not None and _size(pending) > room // 4:
            room = min(room, MAX_COMMAND_BYTES - 8192 - len(encode_command(make(self._frame(None)))))
        while pending is not None and _size(pending) > room:
            await self._send(lambda frame: AppendEvents(**frame), _head(pending, MOST_EVENTS))
            pending = self._emitter.pending()
        return pending

    async def _send(self, make: Callable[[dict[str, Any]], AttemptCommand], events: EventBatch | None) -> StepAnswer:
        answer = await self._deliver(make(self._frame(events)))
        self._ordinal += 1
        self._emitter.committed(max(answer.committed_seq, events.last_seq if events else 0))
        return answer

    def _frame(self, events: EventBatch | None) -> dict[str, Any]:
        return {
            "session_id": self._hold.leg.session_id,
            "run_id": self._hold.leg.run_id,
            "epoch": self._hold.epoch,
            "ordinal": self._ordinal + 1,
            "events": events,
        }

    async def _deliver(self, command: AttemptCommand) -> StepAnswer:
        pause = FIRST_PAUSE
        while True:
            if self.halt_reason is Halt.LOST:
                raise StaleEpoch
            try:
                answer = await self._commands.send(command, REPLY_TIMEOUT)
            except Unavailable as error:
                self._give_up_in_the_end(error)
                logger.info("%s waits: %s", command.type, error, extra={"action": "command_waits"})
                await asyncio.sleep(pause * random.uniform(0.5, 1))  # noqa: S311 - spreads the tries
                pause = min(LONGEST_PAUSE, pause * 2)
            except Fenced:
                self._lose()
                raise
            else:
                return answer if isinstance(answer, StepAnswer) else StepAnswer(committed_seq=0)

    def _give_up_in_the_end(self, error: Unavailable) -> None:
        deadline = self._hold.deadline
        if deadline is not None and (utcnow() - deadline).total_seconds() > PAST_DEADLINE:
            # Whether the last command took effect is unknown, so no other may follow it.
            self._lose()
            raise error

    def _lose(self) -> None:
        self._emitter.stop()
        self.halt(Halt.LOST)

    def _overtaken(self) -> None:
        """A newer epoch has begun. After this attempt's end that is the session's next run: the actor knows."""
        if not self._ending:
            self._lose()

    def _commit_soon(self) -> None:
        if self._committing is None and not self._lock.locked():
            self._committing = asyncio.create_task(self._commit(), name="attempt-commit")

    async def _commit(self) -> None:
        try:
            async with self._lock:
                if self._emitter.wants_commit:
                    await self._commit_events()
        except CallboardError as error:
            logger.info("events were not committed: %s", error, extra={"action": "commit_failed"})
        finally:
            self._committing = None

    async def _commit_events(self) -> None:
        def frame_only(frame: dict[str, Any]) -> AppendEvents:
            return AppendEvents(**frame)

        events = await self._send_surplus(frame_only)
        await self._send(frame_only, events)


def _size(batch: EventBatch) -> int:
    """Bytes of the batch inside a command, where its lines are JSON strings."""
    return sum(len(orjson.dumps(line)) + 1 for line in batch.lines)


def _head(batch: EventBatch, room: int) -> EventBatch:
    """As many of the first lines as fit, at least one."""
    used, count = 0, 0
    for line in batch.lines:
        used += len(orjson.dumps(line)) + 1
        if count and used > room:
            break
        count += 1
    return EventBatch(epoch=batch.epoch, first_seq=batch.first_seq, lines=batch.lines[:count])
