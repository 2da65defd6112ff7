"""Executes one leg of a run, from the wake-up to its end, pause or release.

In:  the ids of a leg
Out: StartRun, the crew's steps, and FinishRun, RequestTools or ReleaseRun
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import ReleaseRun, StartAnswer, StartRun
from callboard_runtime.domain.event_batch import ORIGIN
from callboard_runtime.domain.ids import new_id, utcnow
from callboard_runtime.entry.ahead import Ahead
from callboard_runtime.entry.attempt import Attempt, Hold
from callboard_runtime.entry.brief import RunBrief
from callboard_runtime.entry.conduct import Conductor, Play, set_going
from callboard_runtime.entry.running import RunningAttempts
from callboard_runtime.errors import AttemptAlive, CallboardError, NotFound, NotRunnable, Refused, Unavailable
from callboard_runtime.observe.logs import run_named
from callboard_runtime.observe.spans import leg_span
from callboard_runtime.observe.tracing import Span
from callboard_runtime.observe.worker import LEGS
from callboard_runtime.pacing import Step, turn
from callboard_runtime.persistence.run_reader import read_brief, read_first_brief
from callboard_runtime.settings import Settings
from callboard_runtime.stream.emitter import EventEmitter, Leg
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher

logger = logging.getLogger(__name__)

START_TIMEOUT = 10.0  # seconds until StartRun is sent again
START_PATIENCE = 60.0  # seconds after which a wake-up is given up: another one comes
PAUSE = 1.0  # seconds between two tries
RELEASE_TIMEOUT = 5.0  # seconds that a shutdown waits for a run to be given back that was never begun
BUSY = 8  # runs at once from which on deltas are joined over a longer time
LONGEST_WINDOW = 0.05  # seconds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WorkerServices:
    """What every run of a process uses together."""

    settings: Settings
    process: str
    commands: CommandClient
    lanes: LanePublisher
    tail: GuardedTail
    engine: AsyncEngine
    attempts: RunningAttempts

    def window(self) -> float:
        """Seconds in which deltas are joined: twice as long while many runs share the process."""
        window = self.settings.worker.coalesce_ms / 1000
        return min(LONGEST_WINDOW, window * 2) if self._busy else window

    def reading_window(self) -> float:
        """Seconds in which tokens are read together: the same while many runs share the process, else 0."""
        return self.window() if self._busy else 0.0

    @property
    def _busy(self) -> bool:
        return len(self.attempts) > BUSY


async def execute_run(session_id: UUID, run_id: UUID, leg: int, services: WorkerServices) -> None:
    """Run a leg to its end, pause or release. A wake-up that is late, doubled or not needed changes nothing.

    Never raises for what a run may run into: that ends the run, with its error code.
    """
    attempt_id = new_id()
    if services.attempts.draining:
        return
    with services.attempts.listed(attempt_id), run_named(session_id, run_id):
        start = StartRun(session_id=session_id, run_id=run_id, leg=leg, attempt_id=attempt_id, process=services.process)
        brief = await _unattempted(start, services) if leg == 1 else None
        if brief is not None and brief.config.flow is None:  # a flow's own Python must not run before the grant
            await _start_ahead(start, brief, services)
        elif (answer := await _ask_for_epoch(start, services)) is not None:
            await _start(start, answer, services)


async def _unattempted(start: StartRun, services: WorkerServices) -> RunBrief | None:
    """The brief of a run that nobody has attempted: its first step can be asked for together with its epoch."""
    try:
        return await read_first_brief(services.engine, start.run_id, services.settings.runs.history_tokens)
    except Exception as error:  # noqa: BLE001 - whatever it is: the way that asks for the epoch first deals with it
        logger.debug("run %s is not read ahead: %s", start.run_id, type(error).__name__, extra={"action": "no_ahead"})
        return None


async def _start_ahead(start: StartRun, brief: RunBrief, services: WorkerServices) -> None:
    await turn(Step.CREW)
    with _span(start, 1, brief) as span:
        ahead = Ahead(brief, services.settings)
        try:
            start = start.but(steps=await ahead.first_steps())
            answer = await _ask_for_epoch(start, services)
            if answer is None:
                span.note({"callboard.outcome": "refused"})
            elif answer.attempt == 1:
                attempt, emitter = _open_attempt(start, answer, brief, services)
                ahead.granted(attempt, emitter, begun=answer.begun)
                await _conduct(start, attempt, ahead.stream, ahead.play, span, services)
        finally:
            await ahead.drop()
    if answer is not None and answer.attempt > 1:  # somebody was faster and is gone already: there is a journal now
        await _start(start, answer, services)


async def _ask_for_epoch(start: StartRun, services: WorkerServices) -> StartAnswer | None:
    """The grant, or None when this task is not needed. The same attempt_id is sent until there is an answer."""
    commands, attempts = services.commands, services.attempts
    note = {"action": "start_refused", "run_id": str(start.run_id)}
    try:
        answer = await _with_patience(lambda: commands.send(start, START_TIMEOUT), START_PATIENCE, attempts)
    except (AttemptAlive, NotRunnable) as error:
        logger.debug("nothing to do: %s", error, extra=note)
    except (Refused, Unavailable) as error:
        logger.warning("run %s was not started: %s", start.run_id, error, extra=note)
    else:
        return answer if isinstance(answer, StartAnswer) else None
    return None


async def _start(start: StartRun, answer: StartAnswer, services: WorkerServices) -> None:
    """Go on from a grant: read the run, and replay what was recorded of it."""
    try:
        brief = await _read(start, answer, services)
    except NotFound:
        logger.info("run %s was deleted before it began", start.run_id, extra={"action": "run_gone"})
        return
    except Exception as error:
        if services.attempts.draining and isinstance(error, Unavailable):
            await _give_back(start, answer, services)
            return
        logger.exception("run %s cannot be read", start.run_id, extra={"action": "run_unreadable"})
        brief = error
    with _span(start, answer.attempt, brief) as span:
        attempt, emitter = _open_attempt(start, answer, brief, services)
        stream = RunStream(emitter)
        play = brief if isinstance(brief, Exception) else set_going(brief, attempt, stream, services.settings)
        await _conduct(start, attempt, stream, play, span, services)


async def _give_back(start: StartRun, answer: StartAnswer, services: WorkerServices) -> None:
    """Release a run of which nothing was begun; if that fails, it is found as any run whose process is gone."""
    release = ReleaseRun(session_id=start.session_id, run_id=start.run_id, epoch=answer.epoch, ordinal=1)
    note = {"action": "run_given_back", "run_id": str(start.run_id)}
    try:
        await services.commands.send(release, RELEASE_TIMEOUT)
    except CallboardError as error:
        logger.info("run %s could not be given back: %s", start.run_id, error, extra=note)
    else:
        logger.info("run %s was given back before it began", start.run_id, extra=note)


async def _conduct(
    start: StartRun, attempt: Attempt, stream: RunStream, play: Play | Exception, span: Span, services: WorkerServices
) -> None:
    services.attempts.granted(start.attempt_id, attempt)
    try:
        outcome = await Conductor(attempt, stream, services.settings).conduct(play)
    finally:
        await attempt.close()
    span.note({"callboard.outcome": outcome})
    LEGS.labels(outcome).inc()


def _span(start: StartRun, attempt: int, brief: RunBrief | Exception) -> Span:
    agent, asked, former = "unreadable", None, None
    if isinstance(brief, RunBrief):
        agent, asked, former = brief.agent_id, brief.trace, brief.former_trace
    return leg_span(agent, start.session_id, start.run_id, start.leg, attempt, asked, former)


async def _read(start: StartRun, answer: StartAnswer, services: WorkerServices) -> RunBrief:
    tokens = services.settings.runs.history_tokens
    patience = (answer.deadline - utcnow()).total_seconds() if answer.deadline else START_PATIENCE
    return await _with_patience(
        lambda: read_brief(services.engine, start.run_id, answer, tokens), patience, services.attempts
    )


def _open_attempt(
    start: StartRun, answer: StartAnswer, brief: RunBrief | Exception, services: WorkerServices
) -> tuple[Attempt, EventEmitter]:
    before, journal = (ORIGIN, ()) if isinstance(brief, Exception) else (brief.log_before, brief.journal)
    leg = Leg(start.session_id, start.run_id, answer.leg, before)
    emitter = EventEmitter(leg, answer.opening, tail=services.tail, lanes=services.lanes, window=services.window)
    hold = Hold(leg, answer.epoch, answer.deadline)
    return Attempt(hold, services.commands, emitter, journal), emitter


async def _with_patience(action: Callable[[], Awaitable[T]], patience: float, attempts: RunningAttempts) -> T:
    """Repeat while a service is away; raises Unavailable after `patience` seconds, and once the process shuts down."""
    end = asyncio.get_running_loop().time() + patience
    while True:
        try:
            return await action()
        except Unavailable:
            if attempts.draining or asyncio.get_running_loop().time() > end:
                raise
            await asyncio.sleep(PAUSE * random.uniform(0.5, 1))  # noqa: S311 - spreads the tries
