"""Conducts a granted attempt: starts the crew, stops it when told, and tells the actor how it came out.

In:  a crew that was set going, and the Attempt that holds its epoch
Out: FinishRun, RequestTools or ReleaseRun; nothing at all once the epoch is lost
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.ports import Journal
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.entry.attempt import Attempt, Halt
from callboard_runtime.entry.brief import RunBrief
from callboard_runtime.errors import CallboardError, Fenced, StaleEpoch, Unavailable
from callboard_runtime.observe.worker import PAUSES
from callboard_runtime.settings import Settings

if TYPE_CHECKING:
    from callboard_runtime.crew.runtime import CrewAIRuntime, CrewOutcome
    from callboard_runtime.flows.runtime import FlowRuntime

    Ending = CrewOutcome | BaseException

logger = logging.getLogger(__name__)

RUN_DEADLINE = "RUN_DEADLINE"
WORKER_ERROR = "WORKER_ERROR"
TOO_LONG = "The run took longer than it may."
DEADLINE_GRACE = 2.0  # seconds a crew has to stop after its deadline
NO_DEADLINE = 24 * 3600.0  # seconds; a granted attempt always has one
CANCEL_SHARE = 0.8  # of the grace of a cancellation: the rest is for telling the actor

_KEEP_PARTIAL = (Halt.CANCELLED, Halt.DEADLINE)
"""The run ends here, so that half an answer counts; after a release the whole answer is asked for again."""


@dataclass(frozen=True, slots=True)
class Play:
    """A crew that was set going."""

    runtime: CrewAIRuntime | FlowRuntime
    crew: asyncio.Task[CrewOutcome]


def set_going(brief: RunBrief, journal: Journal, stream: RunStream, settings: Settings) -> Play | Exception:
    """The crew of a run, at work from here on; or why it cannot be made, with which the run must end."""
    try:
        runtime = _runtime(brief, journal, stream, settings)
    except Exception as error:  # noqa: BLE001 - whatever it is
        return error
    return Play(runtime, asyncio.create_task(runtime.run(), name=f"crew-{brief.run_id}"))


def _runtime(brief: RunBrief, journal: Journal, stream: RunStream, settings: Settings) -> CrewAIRuntime | FlowRuntime:
    if brief.config.flow is not None:
        from callboard_runtime.flows.runtime import FlowRuntime  # late, as below

        return FlowRuntime(brief, journal, stream, settings)
    from callboard_runtime.crew.runtime import CrewAIRuntime  # late: seconds to import, for workers only

    return CrewAIRuntime(brief, journal, stream, settings)


class Conductor:
    """Runs one attempt to its end. Belongs to the worker's event loop."""

    def __init__(self, attempt: Attempt, stream: RunStream, settings: Settings) -> None:
        self._attempt, self._stream, self._settings = attempt, stream, settings
        self._timers: list[asyncio.TimerHandle] = []

    async def conduct(self, play: Play | Exception) -> str:
        """Returns when the actor knows how the attempt ended, or when it is not ours to say. Never raises.

        What is returned names the end, for those who watch: `finished`, `paused`, `cancelled`, `released`, `failed`,
        `deadline` or `lost`.
        """
        ending: Ending = play if isinstance(play, Exception) else await self._watch(play)
        try:
            await self._tell(ending)
        except (StaleEpoch, Unavailable) as error:
            self._note("attempt_lost", "was lost to this attempt: %s", error)
        except CallboardError as error:
            # The end itself was refused, such as a result that is too large: say that instead.
            self._note("end_refused", "could not end as it should: %s", error)
            with contextlib.suppress(CallboardError):
                await self._fail(error.code, error.message)
        return self._named(ending)

    def _named(self, ending: Ending) -> str:
        reason = self._attempt.halt_reason
        if reason is Halt.LOST or isinstance(ending, StaleEpoch):
            return "lost"
        if reason is Halt.DEADLINE:
            return "deadline"
        if not isinstance(ending, BaseException):
            return ending.status
        if reason is Halt.SHUTDOWN and isinstance(ending, asyncio.CancelledError | Fenced):
            return "released"
        return "cancelled" if reason is Halt.CANCELLED else "failed"

    async def _watch(self, play: Play) -> Ending:
        """The crew's outcome, or the exception that ended it."""
        ending = await self._supervise(play.crew, play.runtime)
        if isinstance(ending, asyncio.CancelledError) and self._attempt.halt_reason in _KEEP_PARTIAL:
            with contextlib.suppress(CallboardError):
                await play.runtime.settle()
        return ending

    async def _supervise(self, crew: asyncio.Task[CrewOutcome], runtime: CrewAIRuntime | FlowRuntime) -> Ending:
        self._timers.append(self._at_deadline())
        self._attempt.on_halt(lambda reason: self._stop(crew, runtime, reason))
        try:
            await asyncio.wait((crew,))
        finally:
            crew.cancel()  # without effect, unless it is this task that was cancelled
            for timer in self._timers:
                timer.cancel()
        if crew.cancelled():
            return asyncio.CancelledError()
        return crew.exception() or crew.result()

    def _at_deadline(self) -> asyncio.TimerHandle:
        left = (self._attempt.hold.deadline - utcnow()).total_seconds() if self._attempt.hold.deadline else NO_DEADLINE
        return asyncio.get_running_loop().call_later(max(0.0, left), self._attempt.halt, Halt.DEADLINE)

    def _stop(self, crew: asyncio.Task[CrewOutcome], runtime: CrewAIRuntime | FlowRuntime, reason: Halt) -> None:
        """Stop the crew, politely first, by force if it does not end in time."""
        runtime.stop("release" if reason is Halt.SHUTDOWN else "cancel")
        patience = {
            Halt.SHUTDOWN: self._settings.worker.drain,
            Halt.DEADLINE: DEADLINE_GRACE,
            Halt.CANCELLED: self._settings.runs.cancel_grace * CANCEL_SHARE,
        }
        self._timers.append(asyncio.get_running_loop().call_later(patience.get(reason, 0), crew.cancel))

    # -- telling the actor --------------------------------------------------------------------------------------------

    async def _tell(self, ending: Ending) -> None:
        if self._attempt.halt_reason is Halt.LOST or isinstance(ending, StaleEpoch):
            return
        self._stream.close_open()
        if isinstance(ending, BaseException):
            await self._tell_error(ending)
        elif self._attempt.halt_reason is Halt.DEADLINE and ending.status == "cancelled":
            await self._fail(RUN_DEADLINE, TOO_LONG)
        else:
            await self._tell_outcome(ending)

    async def _tell_outcome(self, outcome: CrewOutcome) -> None:
        match outcome.status:
            case "paused":
                await self._attempt.request_tools(outcome.calls)
                for call in outcome.calls:
                    PAUSES.labels(call.mode).inc()
            case "released":
                await self._attempt.release()
            case "finished" | "cancelled":
                # The actor knows of a cancellation, and ends the run as cancelled whatever is said here.
                await self._attempt.finish()

    async def _tell_error(self, error: BaseException) -> None:
        match self._attempt.halt_reason:
            case Halt.DEADLINE:
                await self._fail(RUN_DEADLINE, TOO_LONG)
            case Halt.CANCELLED:
                await self._attempt.finish()
            case Halt.SHUTDOWN if isinstance(error, asyncio.CancelledError | Fenced):
                await self._attempt.release()
            case _:
                await self._fail_because(error)

    async def _fail_because(self, error: BaseException) -> None:
        if isinstance(error, CallboardError):
            self._note("run_failed", "failed: %s", error)
            await self._fail(error.code, error.message)
            return
        run = self._attempt.hold.leg.run_id
        logger.error("run %s failed", run, exc_info=error, extra={"action": "run_crashed", "run_id": str(run)})
        await self._fail(WORKER_ERROR, "The run failed because of an internal error.")

    async def _fail(self, code: str, message: str) -> None:
        await self._attempt.finish(error_code=code, error_message=message)

    def _note(self, action: str, text: str, error: CallboardError) -> None:
        run = self._attempt.hold.leg.run_id
        logger.info(f"run %s {text}", run, error, extra={"action": action, "run_id": str(run), "code": error.code})
