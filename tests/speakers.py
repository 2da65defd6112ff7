"""Attempts at work as a worker has them, with its own classes, but without a crew and a model.

Their events go to Redis, to the lanes and, with the commands, to real actors; if wanted so fast that lanes overflow.
"""

import asyncio
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Self
from uuid import UUID

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import ORIGIN, AguiEvent
from callboard_runtime.domain.ids import run_uuid, session_uuid, utcnow
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.entry.attempt import Attempt, Hold
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.heartbeats import Heartbeat
from callboard_runtime.stream.emitter import EventEmitter, Leg
from callboard_runtime.stream.guard import GuardedTail
from callboard_runtime.stream.lanes import LanePublisher
from callboard_runtime.stream.tail import TailStore

PATIENCE = 60.0  # seconds for one command
AT_ONCE = 64  # runs that are accepted and started side by side
USAGE = CallUsage(provider="openai", model="speakers", input_tokens=50, output_tokens=64)


def word(number: int) -> AguiEvent:
    """An event that may stand anywhere in a run; `at` is when it was said, on this machine's steady clock."""
    return {"type": "CUSTOM", "name": "word", "value": {"number": number, "at": time.perf_counter(), "text": "a " * 24}}


@dataclass
class Speaker:
    """One attempt at the first run of a session of its own."""

    thread: str
    run: str
    session_id: UUID
    attempt: Attempt
    emitter: EventEmitter
    steps: int = 0
    words: int = 0

    async def begin_step(self) -> None:
        """Record the step under way and begin the next: all that was said so far comes into the log."""
        await self._record()
        self.steps += 1
        await self.attempt.begin(
            c.StepBegin(
                key=f"answer/{self.steps}", kind="model", name="answer", digest="d", provider="openai", model="speakers"
            )
        )

    async def say(self, count: int) -> None:
        """Say some words in one batch; returns when it is on its way, or waits for a commit."""
        for _ in range(count):
            self.words += 1
            self.emitter.emit(word(self.words))
        self.emitter.flush()
        await self.emitter.drain(PATIENCE)

    async def say_all(self, batches: int, size: int, batches_per_step: int) -> None:
        """Say so many batches as fast as they are taken, in steps, to the end of the run."""
        for number in range(batches):
            if number % batches_per_step == 0:
                await self.begin_step()
            await self.say(size)
        await self.finish()

    async def finish(self) -> None:
        await self._record()
        await self.attempt.finish()
        await self.attempt.close()

    async def _record(self) -> None:
        if self.steps:
            record = c.StepRecord(key=f"answer/{self.steps}", result={"text": "words"}, usage=USAGE)
            await self.attempt.record(record)


class Speakers:
    """A process full of attempts. Use it with `async with`."""

    def __init__(self, database: str, amqp: str, redis: str, prefix: str, *, lanes: type[LanePublisher]) -> None:
        self.name = f"speakers-{uuid.uuid4().hex[:8]}"
        self._amqp, self._lanes_type = amqp, lanes
        self._tail = GuardedTail(TailStore.from_url(redis, prefix))
        self._attempts: tuple[UUID, ...] = ()
        self._heartbeat = Heartbeat(database, self.name, "worker", interval=0.5, attempts=lambda: self._attempts)

    async def __aenter__(self) -> Self:
        self.commands = await CommandClient.connect(self._amqp, self.name)
        self.lanes = await self._lanes_type.connect(self._amqp, f"{self.name}-lanes")
        self._heartbeat.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self._heartbeat.stop)
        await self.lanes.close()
        await self.commands.close()
        await self._tail.close()

    async def begin(self, user: str, count: int) -> list[Speaker]:
        """Have so many runs accepted, each in a session of its own, and hold them."""
        gate = asyncio.Semaphore(AT_ONCE)

        async def one() -> Speaker:
            async with gate:
                return await self._begin(user)

        return list(await asyncio.gather(*(one() for _ in range(count))))

    async def _begin(self, user: str) -> Speaker:
        thread = uuid.uuid4().hex
        run, session_id = f"run-{thread}", session_uuid(user, thread)
        await self._accept(user, thread, run)
        attempt_id, run_id = uuid.uuid4(), run_uuid(user, run)
        self._attempts = (*self._attempts, attempt_id)
        start = c.StartRun(session_id=session_id, run_id=run_id, leg=1, attempt_id=attempt_id, process=self.name)
        answer = await self.commands.send(start, PATIENCE)
        assert isinstance(answer, c.StartAnswer)
        leg = Leg(session_id, run_id, answer.leg, ORIGIN)
        emitter = EventEmitter(leg, answer.opening, tail=self._tail, lanes=self.lanes, window=lambda: 0.0)
        attempt = Attempt(Hold(leg, answer.epoch, answer.deadline), self.commands, emitter)
        return Speaker(thread, run, session_id, attempt, emitter)

    async def _accept(self, user: str, thread: str, run: str) -> None:
        """Until somebody serves the session: actors beat before they own anything."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                await self.commands.send(accept_run(user, thread, run), PATIENCE)
            except Unavailable:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


def accept_run(user: str, thread: str, run: str, within: float = PATIENCE) -> c.AcceptRun:
    """A run of the scripted agent, to be accepted `within` so many seconds."""
    message = NewMessage(message_id=f"{run}-question", role="user", content="say something")
    return c.AcceptRun(
        session_id=session_uuid(user, thread),
        user_id=user,
        thread_id=thread,
        run_id=run,
        agent_id="chat",
        digest=run,
        input=RunInput(messages=(message,)),
        not_after=utcnow() + timedelta(seconds=within),
    )


async def all_say(speakers: Iterable[Speaker], batches: int, size: int, batches_per_step: int) -> None:
    """All of them at once, each as fast as it can."""
    await asyncio.gather(*(speaker.say_all(batches, size, batches_per_step) for speaker in speakers))
