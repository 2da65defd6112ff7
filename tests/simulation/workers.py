"""A simulated worker process: production's `execute_run`, Conductor, Attempt and emitter around a scripted crew."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from decimal import Decimal
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.pause import StopSignal
from callboard_runtime.domain.commands import StepBegin, StepRecord
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import PendingToolCall, ToolCallStatus
from callboard_runtime.domain.tool_policy import ToolMode
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.entry import run_service
from callboard_runtime.entry.ahead import EarlyJournal
from callboard_runtime.entry.attempt import Attempt
from callboard_runtime.entry.brief import RunBrief
from callboard_runtime.entry.run_service import WorkerServices
from callboard_runtime.entry.running import RunningAttempts
from callboard_runtime.errors import CallboardError, RunCancelling
from callboard_runtime.stream.guard import GuardedTail
from simulation.broker import command_client
from simulation.memory_reads import Database
from simulation.processes import Process
from simulation.tail import SimLanes, SimTail

if TYPE_CHECKING:
    from simulation.world import World

SLOTS = 4
PRICE_IN, PRICE_OUT = Decimal("0.001"), Decimal("0.002")
INPUT_TOKENS = 10
CREW_MODULE = "callboard_runtime.crew.runtime"


class SimWorker:
    """One process that takes wake-ups."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.process = world, Process(name, world.chance)
        self.attempts = RunningAttempts(SLOTS)
        self.services = WorkerServices(
            settings=world.settings,
            process=name,
            commands=command_client(world.broker, self.process),
            lanes=SimLanes(world.streams, self.process),  # type: ignore[arg-type]
            tail=GuardedTail(SimTail(world.streams, self.process)),  # type: ignore[arg-type]
            engine=Database(world.tables, world.database, self.process),  # type: ignore[arg-type]
            attempts=self.attempts,
        )
        self.waking = 0
        world.broker.workers.append(self)
        self.process.spawn(self._beat())

    @property
    def room(self) -> bool:
        """Whether the broker would hand it a wake-up: a frozen process looks as free as any, for a while."""
        return self.process.alive and len(self.attempts) + self.waking < SLOTS

    def wake(self, session_id: UUID, run_id: UUID, leg: int) -> None:
        self.waking += 1
        self.process.spawn(self._run(session_id, run_id, leg))

    async def _run(self, session_id: UUID, run_id: UUID, leg: int) -> None:
        await self.process.latency()
        await self.process.point()
        self.waking -= 1
        PROCESS.set(self.process)
        try:
            await run_service.execute_run(session_id, run_id, leg, self.services)
        finally:
            self.world.broker.hand_out()

    async def told(self, run_id: UUID, epoch: int) -> None:
        await self.process.latency()
        await self.process.point()
        self.attempts.cancel(run_id, epoch)

    async def stop(self) -> None:
        """As SIGTERM does: release at the next step boundary, then go."""
        self.attempts.shut_down()
        while len(self.attempts):  # noqa: ASYNC110 - production's class has no event for it
            await asyncio.sleep(0.2)
        self.process.kill()

    async def _beat(self) -> None:
        db: Any = self.services.engine
        while True:
            try:
                ids = self.attempts.ids()
                await db.ask(lambda tables, ids=ids: tables.beats.update({self.process.name: (self.world.now(), ids)}))
            except CallboardError:
                pass
            await asyncio.sleep(1)


@dataclass(frozen=True)
class Outcome:
    """In place of CrewOutcome."""

    status: Literal["finished", "paused", "cancelled", "released"]
    text: str = ""
    calls: tuple[PendingToolCall, ...] = ()


class ScriptedCrew:
    """In place of CrewAIRuntime: does what the run's message says, word by word, journaled as a crew is.

    `text` asks the model, `fail` asks it twice, `tool` runs a backend tool, `ask` and `approve` wait for an answer.
    """

    def __init__(self, brief: RunBrief, attempt: Attempt | EarlyJournal, stream: RunStream, _settings: object) -> None:
        self._brief, self._attempt, self._stream = brief, attempt, stream
        self._signal = StopSignal()
        self._unsent: list[StepRecord] = []
        self._plan = str(brief.input.messages[-1].content).split()
        self._world = WORLDS[asyncio.get_running_loop()]
        self._process = PROCESS.get()

    def stop(self, reason: Literal["cancel", "release"]) -> None:
        self._signal.stop(reason)

    async def settle(self) -> None:
        await self._record_unsent()

    async def run(self) -> Outcome:
        try:
            for number, word in enumerate(self._plan):
                asked = await self._do(number, word)
                if asked:
                    return Outcome("paused", calls=asked)
        except RunCancelling:
            await self._record_unsent()
            return Outcome("cancelled")
        except CallboardError as error:
            if error.code == "RUN_RELEASED":
                return Outcome("released")
            raise
        assert not self._attempt.unreplayed(), "the journal has more than the crew did"
        return Outcome("finished")

    async def _do(self, number: int, word: str) -> tuple[PendingToolCall, ...]:
        if word in ("ask", "approve"):
            return self._ask(number, word)
        if word == "tool":
            await self._use_tool(number)
            return ()
        if word == "fail":
            await self._call_model(f"m{number}!1", fails=True)
        await self._call_model(f"m{number}!2")
        return ()

    async def _call_model(self, key: str, *, fails: bool = False) -> None:
        if self._attempt.find(key) is not None:
            return
        self._signal.check()
        await self._attempt.begin(_model_step(key))
        epoch = _granted(self._attempt).hold.epoch
        message_id = f"{self._brief.run_id}-{key}-{epoch}"
        try:
            with self._signal.interruptible():
                await self._process.call(lambda: self._world.provider_called(self._brief.run_id, key, epoch))
                await self._stream_words(message_id)
        except RunCancelling:
            self._stream.text_ended(message_id)
            self._unsent.append(StepRecord(key=key, outcome="cancelled", usage=_usage(estimated=True)))
            raise
        self._stream.text_ended(message_id, withdrawn=fails)
        if fails:
            await self._attempt.record(StepRecord(key=key, outcome="failed", usage=_usage(), error="MODEL_ERROR"))
            return
        message = NewMessage(message_id=message_id, role="assistant", content="one two")
        await self._attempt.record(StepRecord(key=key, result={"text": "one two"}, usage=_usage()), messages=[message])

    async def _stream_words(self, message_id: str) -> None:
        for word in ("one", " two"):
            self._stream.text_delta(message_id, word)
            await asyncio.sleep(self._world.chance.random() * 0.6)
            await self._process.point()

    async def _use_tool(self, number: int) -> None:
        key, call_id = f"t{number}", f"{self._brief.run_id}-t{number}"
        if self._attempt.find(key) is not None:
            return  # recorded, or unknown: either way it is not run again
        self._signal.check()
        step = StepBegin(key=key, kind="tool", name="press", digest="d", tool_call_id=call_id)
        await self._attempt.begin(step)
        self._stream.call_started(call_id, "press")
        await self._process.call(lambda: self._world.tool_started(call_id))
        self._stream.call_result(call_id, "pressed", f"result-{call_id}")
        await self._attempt.record(StepRecord(key=key, result="pressed"))

    def _ask(self, number: int, word: str) -> tuple[PendingToolCall, ...]:
        call_id = f"{self._brief.run_id}-c{number}"
        if any(row.tool_call_id == call_id for row in self._brief.journal if row.kind == "answer"):
            self._attempt.find(f"answer:{call_id}")
            return ()
        browser = {"mode": ToolMode.FRONTEND_EXECUTE, "status": ToolCallStatus.PENDING_RESULT}
        approval = {"interrupt_id": f"i-{call_id}"}
        kind: dict[str, Any] = browser if word == "ask" else approval
        return (PendingToolCall(tool_call_id=call_id, tool_name=word, **kind),)

    async def _record_unsent(self) -> None:
        records, self._unsent = self._unsent, []
        if records:
            await self._attempt.record(*records)


def _granted(journal: Attempt | EarlyJournal) -> Attempt:
    """The attempt of a crew that has begun a step: one that was set going ahead has it behind its journal."""
    return journal if isinstance(journal, Attempt) else journal._attempt.result()


def _model_step(key: str) -> StepBegin:
    prices = {"input_price": str(PRICE_IN), "output_price": str(PRICE_OUT)}
    return StepBegin(
        key=key, kind="model", name="answer", digest="d", provider="p", model="m", input_tokens=INPUT_TOKENS, **prices
    )


def _usage(*, estimated: bool = False) -> CallUsage:
    cost = INPUT_TOKENS * PRICE_IN + 2 * PRICE_OUT
    return CallUsage(
        provider="p", model="m", input_tokens=INPUT_TOKENS, output_tokens=2, cost=cost, estimated=estimated
    )


PROCESS: ContextVar[Process] = ContextVar("process")
"""Where the crew of a run is at work."""

WORLDS: dict[asyncio.AbstractEventLoop, World] = {}
"""The world of each running loop: Conductor makes the crew, and has no place to hand it one."""


@contextlib.contextmanager
def crew_replaced() -> Iterator[None]:
    """Let Conductor import the scripted crew where it asks for CrewAI's runtime."""
    module = ModuleType(CREW_MODULE)
    module.CrewAIRuntime = ScriptedCrew  # type: ignore[attr-defined]
    there, sys.modules[CREW_MODULE] = sys.modules.get(CREW_MODULE), module
    try:
        yield
    finally:
        del sys.modules[CREW_MODULE]
        if there is not None:
            sys.modules[CREW_MODULE] = there
