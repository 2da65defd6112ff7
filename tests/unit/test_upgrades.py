"""What a former release wrote is still understood: session states, and commands that wait in a queue.

The fixtures were written by the release that they are named after and stay as they are; a release adds its own.
Journals are in `test_recorded_journals.py`, a whole upgrade of processes in `tests/faults/test_upgrade.py`.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from callboard_actors.evolve import evolve
from callboard_runtime.domain import events as e
from callboard_runtime.domain.commands import decode_command, encode_command
from callboard_runtime.domain.ids import new_id
from callboard_runtime.domain.state_snapshot import SCHEMA_VERSION, StateSnapshot

FIXTURES = Path(__file__).parents[1] / "fixtures"
# Members that no release sent: an actor tells itself to fail a run, and a run's end has no result beside its messages.
GIVEN_UP = {"FailRun": {"run_id"}, "FinishRun": {"result", "state"}}


def written(kind: str) -> list[Any]:
    return [
        pytest.param(value, id=f"{file.stem}-{value.get('type', number)}")
        for file in sorted((FIXTURES / kind).glob("*.json"))
        for number, value in enumerate(json.loads(file.read_text()))
    ]


@pytest.mark.parametrize("stored", written("snapshots"))
def test_a_state_loads_whole_and_goes_on(stored: dict[str, Any]) -> None:
    snapshot = StateSnapshot.load(stored)
    if stored["schema_version"] == SCHEMA_VERSION:
        assert snapshot.to_json() == stored, "nothing of it is dropped"
    assert evolve(snapshot, e.ReadersPoked(new_id())) == snapshot


@pytest.mark.parametrize("sent", written("commands"))
def test_a_command_is_read_whole(sent: dict[str, Any]) -> None:
    again = json.loads(encode_command(decode_command(json.dumps(sent).encode())))
    kept = {name: value for name, value in sent.items() if name not in GIVEN_UP.get(sent["type"], ())}
    assert {name: again[name] for name in kept} == kept, "nothing of it is dropped"


def test_a_state_of_a_later_release_is_refused() -> None:
    with pytest.raises(ValueError, match=f"reads up to {SCHEMA_VERSION}"):
        StateSnapshot.load({"schema_version": SCHEMA_VERSION + 1})
