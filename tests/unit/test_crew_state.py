"""The shared state of a run: tools read and change it, clients see the change with the result."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import jsonpatch
import pytest
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st

from callboard_runtime.settings import Settings
from callboard_runtime.tools.state import SharedState, StateError, StateView

from .crew_world import CREWAI_WARNS, Ran, brief, config, run, stage, tool

pytestmark = CREWAI_WARNS

MODULE = """
from callboard_runtime.tools.spec import ToolContext

def note(context: ToolContext, text="x"):
    context.patch_state([{"op": "add", "path": "/notes/-", "value": text}])
    return f"{len(context.state['notes'])} notes"

def put(context: ToolContext, key, value):
    context.set_state({**(context.state or {}), key: value})
    return context.state

def fails(context: ToolContext):
    context.patch_state([{"op": "replace", "path": "/notes", "value": "gone"}])
    raise RuntimeError("it broke")

def wrong(context: ToolContext):
    context.patch_state([{"op": "remove", "path": "/absent"}])

def huge(context: ToolContext):
    context.set_state({"a": "x" * 70_000})

def drop(context: ToolContext):
    context.patch_state([{"op": "remove", "path": "/notes"}])
    return "dropped"
"""
ANY = {"type": "object"}


def test_text_may_mention_the_character_that_it_must_not_hold() -> None:
    view = StateView()
    view.replace({"note": "write \\u0000 and \\\\u0000"})
    assert view.value == {"note": "write \\u0000 and \\\\u0000"}
    with pytest.raises(StateError, match="NUL"):
        view.replace({"note": "a\\\0"})


def test_changes_that_are_larger_than_a_state_may_be_are_shown_as_the_state_that_they_left() -> None:
    shared = SharedState({"log": ""}, max_bytes=1024)
    view, other = shared.view(), shared.view()
    for number in range(100):
        view.patch([{"op": "replace", "path": "/log", "value": f"{number:0500}"}])
    other.patch([{"op": "add", "path": "/more", "value": 1}])
    first, second = shared.take(view), shared.take(other)
    assert first is not None
    assert (first.value, first.operations) == ({"log": f"{99:0500}"}, None)
    assert second is not None
    assert second.operations == ({"op": "add", "path": "/more", "value": 1},)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "statetools.py").write_text(MODULE)
    sys.modules.pop("callboard_user_tools.statetools", None)
    return Settings(llm={"timeout": 20, "retries": 0}, config={"dir": tmp_path})


def calling(text: str, *names: str, state: Any = None) -> Any:
    tools = {name: tool(name, f"statetools:{name}", parameters=ANY) for name in names}
    stages = stage("answer", visible=True, tools=names, task="{message} {state}")
    return dataclasses.replace(brief(text, config(stages, tools=tools)), initial_state=state, shared_state=state)


def deltas(ran: Ran) -> list[Any]:
    return [event["delta"] for event in ran.of("STATE_DELTA")]


async def test_a_change_is_shown_and_recorded_with_the_result(settings: Settings) -> None:
    ran = await run(calling('call note with {"text": "a"}', "note", state={"notes": []}), settings)
    assert ran.of("TOOL_CALL_RESULT")[0]["content"] == "1 notes"
    assert deltas(ran) == [[{"op": "add", "path": "/notes/-", "value": "a"}]]
    assert ran.journal.state == {"notes": ["a"]}
    assert ran.types.index("TOOL_CALL_RESULT") + 1 == ran.types.index("STATE_DELTA")
    assert ran.of("STATE_SNAPSHOT") == []


async def test_the_first_state_of_a_session_is_shown_whole(settings: Settings) -> None:
    ran = await run(calling('call put with {"key": "a", "value": [1]}', "put"), settings)
    assert [event["snapshot"] for event in ran.of("STATE_SNAPSHOT")] == [{"a": [1]}]
    assert deltas(ran) == []
    assert ran.journal.state == {"a": [1]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("fails", "Error: RuntimeError: it broke"),
        ("wrong", "Error: StateError: the shared state cannot be patched"),
        ("huge", "Error: StateError: the shared state would have 70008 bytes; it may have 65536"),
    ],
)
async def test_a_failed_tool_changes_nothing(settings: Settings, name: str, expected: str) -> None:
    ran = await run(calling(f"call {name}", name, state={"notes": []}), settings)
    assert ran.of("TOOL_CALL_RESULT")[0]["content"].startswith(expected)
    assert (deltas(ran), ran.journal.state) == ([], None)


async def test_tools_of_one_turn_add_up(settings: Settings) -> None:
    ran = await run(calling("call note and note with {}", "note", state={"notes": []}), settings)
    assert [len(delta) for delta in deltas(ran)] == [1, 1]
    assert ran.journal.state == {"notes": ["x", "x"]}


async def test_a_change_that_came_too_late_is_told(settings: Settings) -> None:
    ran = await run(calling("call drop and note with {}", "drop", "note", state={"notes": []}), settings)
    contents = [event["content"] for event in ran.of("TOOL_CALL_RESULT")]
    lost = [text for text in contents if "its change is lost" in text]
    # Whichever is recorded first counts; a note after the drop has nowhere to go, a drop after the note has.
    assert ran.journal.state == {}
    assert len(lost) == (1 if contents.index("dropped") == 0 else 0)


async def test_a_replay_shows_nothing_again_and_asks_the_same(settings: Settings) -> None:
    asked = calling('call note with {"text": "a"}', "note", state={"notes": []})
    first = await run(asked, settings)
    later = dataclasses.replace(asked, journal=first.journal.rows(), shared_state=first.journal.state)
    second = await run(later, settings)
    assert second.outcome == first.outcome
    assert (second.sink.events, second.journal.begun) == ([], [])


async def test_a_new_attempt_goes_on_from_the_recorded_state(settings: Settings) -> None:
    asked = calling("call note and put with {}", "note", state={"notes": ["old"]})
    first = await run(asked, settings)
    rows = [row for row in first.journal.rows() if row.kind == "model"][:1]
    second = await run(dataclasses.replace(asked, journal=rows, shared_state={"notes": ["old", "new"]}), settings)
    assert second.journal.state == {"notes": ["old", "new", "x"]}


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "b", "~/", ""]), inner, max_size=3)
    ),
    max_leaves=8,
)
states = st.dictionaries(st.sampled_from(["a", "b", "c/d"]), json_values, max_size=3)


@hypothesis_given(states | st.none(), st.lists(states, max_size=4))
def test_what_clients_are_sent_leads_to_the_recorded_state(begin: Any, wanted: list[Any]) -> None:
    shared = SharedState(begin)
    client = begin
    for value in wanted:
        view = shared.view()
        view.replace(value)
        assert view.value == value
        change = shared.take(view)
        if change is not None:
            client = (
                change.value if change.operations is None else jsonpatch.apply_patch(client, list(change.operations))
            )
            assert client == change.value == value
        else:
            assert value == (client or {})


@pytest.mark.parametrize("value", [1, "text", None, {1: 2}, {"a": object()}, {"a": "\0"}, {"a": 2**70}])
def test_what_is_no_state_is_refused(value: Any) -> None:
    view = StateView({"a": 1})
    with pytest.raises(StateError):
        view.replace(value)
    assert view.value == {"a": 1}


def test_a_view_gives_copies() -> None:
    view = StateView({"a": []})
    view.value["a"].append(1)
    assert view.value == {"a": []}
