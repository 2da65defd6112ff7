"""A crew that works ahead: StartRun begins its first steps, and what it showed meanwhile comes after the opening."""

from __future__ import annotations

import asyncio
import sys
import uuid
from types import SimpleNamespace
from typing import Any

import pytest

from callboard_runtime.domain.commands import StepBegin
from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.entry.ahead import Ahead, EarlyJournal
from callboard_runtime.settings import Settings

STEP = StepBegin(key="a", kind="model", name="answer", digest="d")
OTHER = StepBegin(key="b", kind="model", name="answer", digest="d")


class Granted:
    """An attempt and its emitter, as far as a crew sees them."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    async def begin(self, *steps: StepBegin) -> None:
        self.seen.append(steps)

    async def record(self, *records: Any, messages: Any = (), state: Any = None) -> None:
        self.seen.append((records, messages, state))

    def emit(self, event: AguiEvent) -> None:
        self.seen.append(event["type"])


class Crew:
    """Shows a stage, asks for two steps at once, and shows that it goes on."""

    def __init__(self, brief: Any, journal: EarlyJournal, stream: Any, settings: Settings) -> None:
        self.journal, self.stream = journal, stream
        if brief.broken:
            raise ValueError("no such tool")

    async def run(self) -> str:
        self.stream.step_started("answer")
        await asyncio.gather(self.journal.begin(STEP), self.journal.begin(OTHER))
        self.stream.text_delta("m", "hi")
        return "done"


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "callboard_runtime.crew.runtime", SimpleNamespace(CrewAIRuntime=Crew))


def ahead(*, broken: bool = False) -> Ahead:
    brief: Any = SimpleNamespace(run_id=uuid.UUID(int=1), broken=broken, config=SimpleNamespace(flow=None))
    return Ahead(brief, Settings())


@pytest.mark.usefixtures("crew")
@pytest.mark.parametrize("begun", [True, False])
async def test_the_crew_goes_on_when_it_is_granted(begun: bool) -> None:
    early, granted = ahead(), Granted()
    assert await early.first_steps() == (STEP,)
    early.granted(granted, granted, begun=begun)  # type: ignore[arg-type]
    assert not isinstance(early.play, Exception)
    assert await early.play.crew == "done"
    first = [] if begun else [(STEP,)]
    shown = ["TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT"]
    assert granted.seen == ["STEP_STARTED", *first, (OTHER,), *shown]


@pytest.mark.usefixtures("crew")
async def test_a_crew_that_is_not_granted_is_dropped() -> None:
    early = ahead()
    await early.first_steps()
    await early.drop()
    assert not isinstance(early.play, Exception)
    assert early.play.crew.cancelled()


@pytest.mark.usefixtures("crew")
async def test_a_crew_that_cannot_be_made_begins_with_nothing() -> None:
    early = ahead(broken=True)
    assert await early.first_steps() == ()
    assert isinstance(early.play, ValueError)
    await early.drop()
