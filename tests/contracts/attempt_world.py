"""An attempt that sends its commands to an actor whose books a test can read."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import (
    Command,
    DoneAnswer,
    FinishRun,
    ReleaseRun,
    Reply,
    RequestTools,
    StepAnswer,
    StepBegin,
    StepRecord,
    refusal,
)
from callboard_runtime.domain.event_batch import ORIGIN, batch
from callboard_runtime.domain.ids import partition_of, utcnow
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.entry.attempt import Attempt, Hold
from callboard_runtime.entry.brief import JournalRow
from callboard_runtime.errors import CallboardError
from callboard_runtime.stream.emitter import EventEmitter, Leg
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore
from contracts.peers import ScriptedActor, scripted_actor

SESSION, RUN, EPOCH = uuid.UUID(int=5), uuid.UUID(int=6), 4
OPENING = batch(EPOCH, 1, [{"type": "RUN_STARTED"}])


class Log:
    """An actor's books: takes each ordinal once, and answers with what is committed."""

    def __init__(self) -> None:
        self.taken: list[Command] = []
        self.lines: list[str] = list(OPENING.lines)
        self.refuse_next: list[CallboardError | None] = []  # None: takes effect, but nobody hears of it
        self.cancelling = False
        self.ended = asyncio.Event()

    async def __call__(self, command: Any) -> Reply | None:
        refused = self.refuse_next.pop(0) if self.refuse_next else NothingRefused
        if isinstance(refused, CallboardError):
            return refusal(refused)
        ordinal = len(self.taken) + 1
        assert command.ordinal in (ordinal, ordinal - 1), "an ordinal was skipped"
        if command.ordinal == ordinal:
            self.taken.append(command)
            self._commit(command)
        if refused is None:
            return None
        if isinstance(command, FinishRun | RequestTools | ReleaseRun):
            self.ended.set()
            return Reply(answer=DoneAnswer())
        return Reply(answer=StepAnswer(committed_seq=len(self.lines), cancelling=self.cancelling))

    def _commit(self, command: Any) -> None:
        if command.events is not None:
            assert command.events.first_seq <= len(self.lines) + 1, "events were skipped"
            self.lines += command.events.after(len(self.lines)).lines


class NothingRefused:
    pass


class World:
    def __init__(self, attempt: Attempt, emitter: EventEmitter, actor: ScriptedActor, log: Log) -> None:
        self.attempt, self.emitter, self.actor, self.log = attempt, emitter, actor, log


@asynccontextmanager
async def world(
    url: str,
    *,
    through: str | None = None,
    deadline: float = 600,
    journal: tuple[JournalRow, ...] = (),
    redis: TailStore | None = None,
) -> AsyncGenerator[World]:
    """An attempt and its actor; usually without Redis, which neither needs."""
    log = Log()
    tail = GuardedTail(redis or TailStore.from_url("redis://127.0.0.1:1/0", "nobody"))
    async with scripted_actor(url, log, partition_of(SESSION)) as actor:
        commands = await CommandClient.connect(through or url, "test")
        lanes = await LanePublisher.connect(url, "test-lanes")
        leg = Leg(SESSION, RUN, 1, ORIGIN)
        emitter = EventEmitter(leg, OPENING, tail=tail, lanes=lanes, window=lambda: 0.0)
        hold = Hold(leg, EPOCH, utcnow() + timedelta(seconds=deadline))
        attempt = Attempt(hold, commands, emitter, journal)
        try:
            yield World(attempt, emitter, actor, log)
        finally:
            await attempt.close()
            await lanes.close()
            await commands.close()
            await tail.close()


def begin(key: str) -> StepBegin:
    return StepBegin(key=key, kind="model", name="answer", digest="d")


def custom(value: Any) -> dict[str, Any]:
    return {"type": "CUSTOM", "name": "n", "value": value}


def answered(key: str, text: str = "hello") -> StepRecord:
    return StepRecord(key=key, result={"text": text}, usage=CallUsage(provider="p", model="m"))


def said(text: str) -> NewMessage:
    return NewMessage(message_id=text, role="assistant", content=text)
