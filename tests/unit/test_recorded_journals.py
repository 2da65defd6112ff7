"""Journals that an earlier state of the code, and of CrewAI, has written can be gone on with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from callboard_runtime.crew.pause import ReplayDiverged

from .crew_world import CREWAI_WARNS, run
from .journal_scenarios import FOLDER, SCENARIOS, Recorded, Scenario, play

pytestmark = CREWAI_WARNS
NAMES = sorted(SCENARIOS)


def as_recorded(name: str) -> tuple[Recorded, Scenario]:
    """The journal, and the run as it was pinned with it; only what the model says is the scenario's."""
    kept = Recorded.read(name)
    pinned = replace(SCENARIOS[name], config=kept.config, message=kept.message, tools=kept.tools, state=kept.state)
    return kept, pinned


def test_every_kept_journal_is_replayed() -> None:
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
async def test_a_whole_journal_is_replayed_without_a_step(name: str, tmp_path: Path) -> None:
    kept, scenario = as_recorded(name)
    ran = await run(scenario.brief(kept.rows), scenario.settings(tmp_path / "s"))
    assert ran.outcome is not None
    assert (ran.outcome.status, ran.outcome.text) == ("finished", kept.text)
    assert (ran.sink.events, ran.journal.begun, ran.journal.recorded) == ([], [], [])
    assert ran.journal.unreplayed() == ()


@pytest.mark.parametrize("name", NAMES)
async def test_every_beginning_of_a_journal_is_gone_on_with(name: str, tmp_path: Path) -> None:
    kept, scenario = as_recorded(name)
    settings = scenario.settings(tmp_path / "s")
    for length in range(len(kept.rows)):
        ran, outcomes = await play(scenario, settings, kept.rows[:length])
        assert outcomes[-1].text == kept.text, length
        known = {row.key for row in kept.rows[:length]}
        assert not known & {step.key for step in ran.journal.begun}, length
        waited = [tuple(call.tool_name for call in outcome.calls) for outcome in outcomes[:-1]]
        assert {name for names in waited for name in names} <= {name for names in kept.pauses for name in names}


@pytest.mark.parametrize("name", NAMES)
async def test_another_prompt_diverges_and_is_named(name: str, tmp_path: Path) -> None:
    kept, scenario = as_recorded(name)
    first = kept.begun[0]
    other = replace(scenario, message=f"{scenario.message}!")
    with pytest.raises(ReplayDiverged) as caught:
        await run(other.brief(kept.rows), other.settings(tmp_path / "s"))
    assert first in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
async def test_a_row_that_nobody_asks_for_diverges(name: str, tmp_path: Path) -> None:
    kept, scenario = as_recorded(name)
    lost = replace(kept.rows[-1], key="answer@0000000000000000#1!1", kind="model")
    with pytest.raises(ReplayDiverged, match="answer@0000000000000000#1!1"):
        await run(scenario.brief((*kept.rows, lost)), scenario.settings(tmp_path / "s"))
