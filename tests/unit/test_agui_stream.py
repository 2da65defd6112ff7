"""Whatever a crew does, what comes out is a stream that an AG-UI client accepts."""

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.agui.bridge import to_agui_events
from callboard_runtime.agui.run_events import run_finished, run_started
from callboard_runtime.agui.stream import WITHDRAWN, RunStream

from .agui_verifier import Violation, verify

IDS = st.sampled_from(["a", "b", "c"])
TEXT = st.text(max_size=5)


class ListSink:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)


def stream() -> tuple[RunStream, list[dict[str, Any]]]:
    sink = ListSink()
    return RunStream(sink), sink.events


ACTIONS = st.one_of(
    st.tuples(st.sampled_from(["step_started", "step_finished", "text_started", "text_ended"]), IDS),
    st.tuples(st.sampled_from(["reasoning_ended", "call_ended"]), IDS),
    st.tuples(st.sampled_from(["text_delta", "reasoning_delta", "call_arguments", "call_started"]), IDS, TEXT),
    st.tuples(st.just("call_result"), IDS, TEXT, IDS),
    st.tuples(st.just("state_snapshot"), st.none() | st.dictionaries(TEXT, st.integers(), max_size=2)),
    st.tuples(st.just("custom"), IDS, st.integers()),
    st.tuples(st.just("close_open")),
)


@given(st.lists(ACTIONS, max_size=40))
def test_any_sequence_of_calls_gives_a_valid_run_and_close_open_closes_it(actions: list[tuple[Any, ...]]) -> None:
    run, events = stream()
    for name, *arguments in actions:
        getattr(run, name)(*arguments)
    run.close_open()
    whole = [run_started("t", "r"), *events, run_finished("t", "r", {"type": "success"}, {})]
    assert not verify(whole).open_parts


@given(st.lists(ACTIONS, max_size=40))
def test_nothing_that_was_said_is_lost(actions: list[tuple[Any, ...]]) -> None:
    run, events = stream()
    said = ""
    for name, *arguments in actions:
        getattr(run, name)(*arguments)
        said += arguments[1] if name == "text_delta" else ""
    assert "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT") == said


def test_a_repeated_step_name_gets_a_number() -> None:
    run, events = stream()
    for _ in range(3):
        run.step_started("research")
    run.step_finished("research")
    assert [event["stepName"] for event in events] == ["research", "research (2)", "research (3)", "research (3)"]


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "a (2)", "a (3)", "a (2) (2)"])), max_size=12))
def test_step_names_are_unique_and_each_end_is_that_of_the_newest_open_step_asked_for(
    calls: list[tuple[bool, str]],
) -> None:
    run, events = stream()
    open_steps: list[tuple[str, str]] = []
    for starts, name in calls:
        if starts:
            run.step_started(name)
            open_steps.append((name, events[-1]["stepName"]))
            continue
        due = next((step for step in reversed(open_steps) if step[0] == name), None)
        seen = len(events)
        run.step_finished(name)
        assert [event["stepName"] for event in events[seen:]] == ([due[1]] if due else [])
        if due:
            open_steps.remove(due)
    started = [event["stepName"] for event in events if event["type"] == "STEP_STARTED"]
    assert len(started) == len(set(started))


@pytest.mark.parametrize(
    ("names", "sent"),
    [
        (("a", "a", "a (2)"), ["a", "a (2)", "a (2) (2)"]),
        (("a (2)", "a", "a"), ["a (2)", "a", "a (3)"]),
    ],
)
def test_a_given_name_that_looks_like_a_numbered_one_stays_unique(names: tuple[str, ...], sent: list[str]) -> None:
    run, events = stream()
    for name in names:
        run.step_started(name)
    run.step_finished(names[-1])
    assert [event["stepName"] for event in events] == [*sent, sent[-1]]


def test_close_open_closes_the_innermost_first() -> None:
    run, events = stream()
    run.step_started("answer")
    run.text_delta("m", "partial")
    run.close_open()
    assert [event["type"] for event in events[-2:]] == ["TEXT_MESSAGE_END", "STEP_FINISHED"]
    run.close_open()
    assert len(events) == 5


def test_a_withdrawn_text_says_so_in_metadata() -> None:
    run, events = stream()
    run.text_delta("m", "half a")
    run.text_ended("m", withdrawn=True)
    assert events[-1] == {"type": "TEXT_MESSAGE_END", "messageId": "m", "metadata": WITHDRAWN}
    verify([run_started("t", "r"), *events])


def test_a_call_gets_one_result() -> None:
    run, events = stream()
    run.call_started("c", "search", "m")
    run.call_result("c", "found", "r1")
    run.call_result("c", "found again", "r2")
    assert [event["content"] for event in events if event["type"] == "TOOL_CALL_RESULT"] == ["found"]


@pytest.mark.parametrize(
    "events",
    [
        [{"type": "TEXT_MESSAGE_END", "messageId": "m"}],
        [{"type": "STEP_STARTED", "stepName": "s"}, {"type": "STEP_STARTED", "stepName": "s"}],
        [{"type": "STEP_STARTED", "stepName": "s"}, {"type": "RUN_FINISHED", "threadId": "t", "runId": "r"}],
        [{"type": "RUN_STARTED", "threadId": "t", "runId": "r"}],
        [{"type": "TEXT_MESSAGE_START", "messageId": "m", "name": None}],
        [{"type": "STATE_SNAPSHOT", "snapshot": 1, "timestamp": 1.5}],
        [{"type": "NO_SUCH_EVENT"}],
    ],
)
def test_the_verifier_finds_what_clients_refuse(events: list[dict[str, Any]]) -> None:
    with pytest.raises(Violation):
        verify([run_started("t", "r"), *events])


# -- the bridge -------------------------------------------------------------------------------------------------------

KINDS = [
    *("text_start", "text_delta", "text_end", "reasoning_delta", "step_started", "step_finished", "tool_call_start"),
    *(
        "tool_call_args",
        "tool_call_end",
        "tool_call_result",
        "state",
        "state_delta",
        "activity",
        "activity_delta",
        "something_else",
        "",
        "run_started",
    ),
    *("run_finished", "run_error", "LLMStreamChunk", "TEXT_DELTA"),
]
MEMBERS = st.dictionaries(
    st.sampled_from(["delta", "text", "message_id", "name", "tool_call_id", "result", "snapshot"]),
    st.text(min_size=1, max_size=4),
)


@given(st.lists(st.tuples(st.sampled_from(KINDS), MEMBERS), max_size=25))
def test_the_bridge_makes_a_valid_run_of_anything(internal: list[tuple[str, dict[str, str]]]) -> None:
    events = to_agui_events(internal_events=[{"type": kind} | members for kind, members in internal])
    assert events[0]["type"] == "RUN_STARTED"
    assert events[-1]["type"] in ("RUN_FINISHED", "RUN_ERROR")
    assert sum(event["type"] in ("RUN_FINISHED", "RUN_ERROR") for event in events) == 1
    assert verify(events).ended


def test_the_bridge_translates_text_tools_and_steps_in_order() -> None:
    events = to_agui_events(
        internal_events=[
            {"type": "step_started", "name": "answer"},
            {"type": "tool_call_start", "tool_call_id": "c", "tool_name": "search", "args": {"q": "x"}},
            {"type": "tool_call_result", "tool_call_id": "c", "result": {"hits": 1}},
            {"type": "text_delta", "text": "Hel"},
            {"type": "text_delta", "text": "lo"},
            {"type": "run_finished", "result": "Hello"},
        ],
        thread_id="t",
        run_id="r",
    )
    assert [event["type"] for event in events] == [
        "RUN_STARTED",
        "STEP_STARTED",
        "TOOL_CALL_START",
        "TOOL_CALL_ARGS",
        "TOOL_CALL_END",
        "TOOL_CALL_RESULT",
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
        "STEP_FINISHED",
        "RUN_FINISHED",
    ]
    assert events[5]["content"] == '{"hits":1}'
    assert events[-1]["result"] == "Hello"
    assert events[0].type == "RUN_STARTED"


def test_the_bridge_takes_names_dataclasses_and_objects() -> None:
    @dataclass
    class TextDelta:
        text: str

    events = to_agui_events(
        internal_events=["run_started", TextDelta("hi"), SimpleNamespace(type="run_error", message="no", code="NO")]
    )
    assert [event["type"] for event in events[1:-1]] == [
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
    ]
    assert (events[-1]["message"], events[-1]["code"]) == ("no", "NO")


def test_the_bridge_ends_a_run_that_says_nothing() -> None:
    assert [event["type"] for event in to_agui_events(internal_events=[])] == ["RUN_STARTED", "RUN_FINISHED"]


def test_the_bridge_shows_an_activity_and_its_changes() -> None:
    change = {"op": "replace", "path": "/done", "value": True}
    events = to_agui_events(
        internal_events=[
            {"type": "activity_delta", "message_id": "a0", "patch": [change]},
            {"type": "activity", "message_id": "a1", "activity_type": "PLAN", "content": {"done": False}},
            {"type": "activity_delta", "message_id": "a1", "activity_type": "PLAN", "patch": [change]},
            {"type": "activity_delta", "message_id": "a1", "patch": [{"op": "sing"}]},
            {"type": "activity", "content": "busy"},
        ]
    )
    types = ["ACTIVITY_SNAPSHOT", "ACTIVITY_DELTA", "CUSTOM", "CUSTOM"]
    assert [event["type"] for event in events[1:-1]] == types
    assert events[1]["content"] == {"done": False}
    assert verify(events).ended
