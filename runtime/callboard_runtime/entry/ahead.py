"""Sets a crew going before its attempt is granted, so that its first step is asked for together with the epoch.

In:  the brief of a run that was never attempted
Out: the steps that it begins with, for StartRun; after the grant, the crew as it goes on

Up to its first step a crew does nothing that anyone could see: if the attempt is not granted, it is dropped.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.entry.attempt import Attempt
from callboard_runtime.entry.brief import RunBrief
from callboard_runtime.entry.conduct import Play, set_going
from callboard_runtime.settings import Settings
from callboard_runtime.stream.emitter import EventEmitter


class EarlyEvents:
    """Keeps what is emitted until there is an emitter, and hands everything on from then."""

    def __init__(self) -> None:
        self._kept: list[AguiEvent] = []
        self._emitter: EventEmitter | None = None

    def emit(self, event: AguiEvent) -> None:
        if self._emitter is None:
            self._kept.append(event)
        else:
            self._emitter.emit(event)

    def open(self, emitter: EventEmitter) -> None:
        self._emitter = emitter
        for event in self._kept:
            emitter.emit(event)
        self._kept.clear()


class EarlyJournal:
    """The journal of a first attempt: there is nothing in it to replay, and its first steps wait for the grant."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.asked: asyncio.Future[tuple[StepBegin, ...]] = loop.create_future()
        self._attempt: asyncio.Future[Attempt] = loop.create_future()
        self._begun = False

    def open(self, attempt: Attempt, *, begun: bool) -> None:
        """The attempt is granted; `begun`: with the steps that were asked for first."""
        self._begun = begun
        self._attempt.set_result(attempt)

    async def begin(self, *steps: StepBegin) -> None:
        first = not self.asked.done()
        if first:
            self.asked.set_result(steps)
        attempt = await self._granted()
        if not (first and self._begun):
            await attempt.begin(*steps)

    async def record(self, *records: StepRecord, messages: Sequence[NewMessage] = (), state: Any = None) -> None:
        await (await self._granted()).record(*records, messages=messages, state=state)

    def find(self, key: str) -> None:
        return None

    def unreplayed(self) -> tuple[str, ...]:
        return ()

    async def _granted(self) -> Attempt:
        return await asyncio.shield(self._attempt)


class Ahead:
    """A crew on its way to its first step."""

    def __init__(self, brief: RunBrief, settings: Settings) -> None:
        self._journal, self._events = EarlyJournal(), EarlyEvents()
        self.stream = RunStream(self._events)
        self.play = set_going(brief, self._journal, self.stream, settings)

    async def first_steps(self) -> tuple[StepBegin, ...]:
        """What the crew asks for first; nothing if it comes to its end, or cannot be made, without asking."""
        if isinstance(self.play, Play):
            await asyncio.wait((self.play.crew, self._journal.asked), return_when=asyncio.FIRST_COMPLETED)
        return self._journal.asked.result() if self._journal.asked.done() else ()

    def granted(self, attempt: Attempt, emitter: EventEmitter, *, begun: bool) -> None:
        """Let the crew go on in this attempt."""
        self._events.open(emitter)
        self._journal.open(attempt, begun=begun)

    async def drop(self) -> None:
        """Stop the crew, if it was not granted."""
        if isinstance(self.play, Play):
            crew = self.play.crew
            crew.cancel()
            await asyncio.wait((crew,))
            _ = crew.cancelled() or crew.exception()  # marks it as seen
