"""How an attempt's end is told: every way a crew may end, under every reason to stop."""

from __future__ import annotations

import asyncio
import sys
import uuid
from collections.abc import Awaitable, Callable
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.crew.pause import ReplayDiverged, RunReleased
from callboard_runtime.domain.event_batch import ORIGIN
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.entry.attempt import Halt, Hold
from callboard_runtime.entry.conduct import Conductor, set_going
from callboard_runtime.entry.running import RunningAttempts
from callboard_runtime.errors import CallboardError, StaleEpoch, TooLarge, Unavailable
from callboard_runtime.settings import RunSettings, Settings, WorkerSettings
from callboard_runtime.stream.emitter import Leg

Told = tuple[str, Any]
CALL = SimpleNamespace(mode="FRONTEND_EXECUTE")


class Books:
    """Takes down what the conductor tells the actor."""

    def __init__(self, deadline: float = 600) -> None:
        self.told: list[Told] = []
        self.hold = Hold(Leg(uuid.UUID(int=1), uuid.UUID(int=2), 1, ORIGIN), 3, utcnow() + timedelta(seconds=deadline))
        self.halt_reason: Halt | None = None
        self.refuse: list[CallboardError] = []
        self._callback: Callable[[Halt], None] = lambda _: None

    def halt(self, reason: Halt) -> None:
        if self.halt_reason is None or reason > self.halt_reason:
            self.halt_reason = reason
            self._callback(reason)

    def on_halt(self, callback: Callable[[Halt], None]) -> None:
        self._callback = callback
        if self.halt_reason is not None:
            callback(self.halt_reason)

    async def finish(self, *, error_code: str | None = None, **_: Any) -> None:
        self._take("finish", error_code)

    async def request_tools(self, calls: Any) -> None:
        self._take("pause", tuple(calls))

    async def release(self) -> None:
        self._take("release", None)

    def _take(self, what: str, value: Any) -> None:
        if self.refuse:
            raise self.refuse.pop(0)
        self.told.append((what, value))


class Sink:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)


class Crew:
    """A crew that does what the test says; it stops when it is asked to, unless it is `stubborn`."""

    def __init__(self, play: Callable[[Crew], Awaitable[Any]]) -> None:
        self.play, self.settled = play, 0
        self.stopped: asyncio.Event = asyncio.Event()
        self.asked: list[str] = []

    def __call__(self, *_: Any) -> Crew:
        return self

    def stop(self, reason: str) -> None:
        self.asked.append(reason)
        self.stopped.set()

    async def run(self) -> Any:
        return await self.play(self)

    async def settle(self) -> None:
        self.settled += 1


def outcome(status: str, calls: tuple[Any, ...] = ()) -> Any:
    return SimpleNamespace(status=status, calls=calls, text="")


def returns(value: Any) -> Callable[[Crew], Awaitable[Any]]:
    async def play(_: Crew) -> Any:
        if isinstance(value, BaseException):
            raise value
        return value

    return play


def when_stopped(value: Any) -> Callable[[Crew], Awaitable[Any]]:
    async def play(crew: Crew) -> Any:
        await crew.stopped.wait()
        return await returns(value)(crew)

    return play


async def stubborn(_: Crew) -> Any:
    await asyncio.Event().wait()


async def conduct(
    monkeypatch: pytest.MonkeyPatch, books: Books, play: Callable[[Crew], Awaitable[Any]], halt: Halt | None = None
) -> Crew:
    crew = Crew(play)
    monkeypatch.setitem(sys.modules, "callboard_runtime.crew.runtime", SimpleNamespace(CrewAIRuntime=crew))
    settings = Settings(runs=RunSettings(cancel_grace=0.02), worker=WorkerSettings(drain=0.02))
    brief: Any = SimpleNamespace(run_id=uuid.UUID(int=2), config=SimpleNamespace(flow=None))
    stream = RunStream(Sink())
    play = set_going(brief, books, stream, settings)  # type: ignore[arg-type]
    conducting = asyncio.create_task(Conductor(books, stream, settings).conduct(play))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    if halt is not None:
        books.halt(halt)
    async with asyncio.timeout(20):
        await conducting
    return crew


@pytest.mark.parametrize(
    ("end", "told"),
    [
        (outcome("finished"), ("finish", None)),
        (outcome("paused", (CALL,)), ("pause", (CALL,))),
        (outcome("released"), ("release", None)),
        (ReplayDiverged("step x"), ("finish", "REPLAY_DIVERGED")),
        (RuntimeError("a bug"), ("finish", "WORKER_ERROR")),
        (TooLarge(), ("finish", "TOO_LARGE")),
    ],
)
async def test_a_crews_own_end(monkeypatch: pytest.MonkeyPatch, end: Any, told: Told) -> None:
    books = Books()
    await conduct(monkeypatch, books, returns(end))
    assert books.told == [told]


@pytest.mark.parametrize(
    ("reason", "play", "told", "settled"),
    [
        (Halt.CANCELLED, when_stopped(outcome("cancelled")), ("finish", None), 0),
        (Halt.CANCELLED, stubborn, ("finish", None), 1),
        (Halt.CANCELLED, when_stopped(outcome("paused", (CALL,))), ("pause", (CALL,)), 0),
        (Halt.SHUTDOWN, when_stopped(outcome("released")), ("release", None), 0),
        (Halt.SHUTDOWN, when_stopped(outcome("finished")), ("finish", None), 0),
        (Halt.SHUTDOWN, when_stopped(RunReleased()), ("release", None), 0),
        (Halt.SHUTDOWN, stubborn, ("release", None), 0),
        (Halt.SHUTDOWN, when_stopped(ReplayDiverged("x")), ("finish", "REPLAY_DIVERGED"), 0),
        (Halt.DEADLINE, when_stopped(outcome("cancelled")), ("finish", "RUN_DEADLINE"), 0),
        (Halt.DEADLINE, when_stopped(outcome("finished")), ("finish", None), 0),
    ],
)
async def test_an_end_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch,
    reason: Halt,
    play: Callable[[Crew], Awaitable[Any]],
    told: Told,
    settled: int,
) -> None:
    books = Books()
    crew = await conduct(monkeypatch, books, play, reason)
    assert books.told == [told]
    assert crew.settled == settled
    assert crew.asked[0] == ("release" if reason is Halt.SHUTDOWN else "cancel")


async def test_a_run_past_its_deadline_fails_even_if_the_crew_does_not_listen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    books = Books(deadline=-1)
    crew = await conduct(monkeypatch, books, stubborn)
    assert books.told == [("finish", "RUN_DEADLINE")]
    assert crew.settled == 1


@pytest.mark.parametrize("play", [stubborn, when_stopped(outcome("finished")), returns(StaleEpoch())])
async def test_a_lost_run_is_left_alone(monkeypatch: pytest.MonkeyPatch, play: Any) -> None:
    books = Books()
    await conduct(monkeypatch, books, play, Halt.LOST)
    assert books.told == []


async def test_a_cancel_during_a_shutdown_cancels(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    books.halt(Halt.SHUTDOWN)
    crew = await conduct(monkeypatch, books, when_stopped(outcome("cancelled")), Halt.CANCELLED)
    assert books.told == [("finish", None)]
    assert crew.asked == ["release", "cancel"]


async def test_an_end_that_is_refused_is_told_as_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    books = Books()
    books.refuse = [TooLarge()]
    await conduct(monkeypatch, books, returns(outcome("finished")))
    assert books.told == [("finish", "TOO_LARGE")]


@pytest.mark.parametrize("error", [StaleEpoch(), Unavailable()])
async def test_an_end_that_cannot_be_told_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, error: CallboardError
) -> None:
    books = Books()
    books.refuse = [error]
    await conduct(monkeypatch, books, returns(outcome("finished")))
    assert books.told == []


async def test_a_run_that_cannot_be_read_fails() -> None:
    books = Books()
    await Conductor(books, RunStream(Sink()), Settings()).conduct(ValueError("config"))  # type: ignore[arg-type]
    assert books.told == [("finish", "WORKER_ERROR")]


def test_slots_are_counted_and_a_shutdown_leaves_none() -> None:
    running = RunningAttempts(2)
    attempt, books = uuid.uuid4(), Books()
    with running.listed(attempt):
        running.granted(attempt, books)  # type: ignore[arg-type]
        assert (running.ids(), running.free()) == ((attempt,), 1)
        running.cancel(uuid.UUID(int=9), 3)
        running.cancel(books.hold.leg.run_id, 2)
        assert books.halt_reason is None
        running.cancel(books.hold.leg.run_id, 3)
        assert books.halt_reason is Halt.CANCELLED
    assert (running.ids(), running.free()) == ((), 2)
    running.shut_down()
    assert running.free() == 0


def test_an_attempt_that_is_granted_during_a_shutdown_is_released_at_once() -> None:
    running, attempt, books = RunningAttempts(2), uuid.uuid4(), Books()
    with running.listed(attempt):
        running.shut_down()
        running.granted(attempt, books)  # type: ignore[arg-type]
        assert books.halt_reason is Halt.SHUTDOWN
