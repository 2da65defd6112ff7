"""A page that comes in the middle is shown the same as one that saw everything, whatever was going on."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard_http.chunk import Chunk
from callboard_http.scene import Scene
from callboard_runtime.agui.run_events import messages_snapshot, run_started
from callboard_runtime.agui.stream import RunStream

from .agui_page import Json, Page

USER = {"id": "u", "role": "user", "content": "hello"}
FINISHED = {"type": "RUN_FINISHED", "threadId": "t", "runId": "r", "outcome": {"type": "success"}}


class Leg:
    """A leg that a hand plays: its events, and the messages that rows have, by the number of events before them."""

    def __init__(self) -> None:
        self.events: list[Json] = [run_started("t", "r")]
        self.rows: dict[int, list[Json]] = {0: [USER]}
        self.stream = RunStream(self)
        self._numbers = itertools.count()

    def emit(self, event: Json) -> None:
        self.events.append(event)

    def text(self, pieces: list[str], withdrawn: bool) -> None:
        name = f"m{next(self._numbers)}"
        for piece in pieces:
            self.stream.text_delta(name, piece)
        self.stream.text_ended(name, withdrawn=withdrawn)
        if pieces and not withdrawn:
            self.record({"id": name, "role": "assistant", "content": "".join(pieces)})

    def calls(self, arguments: list[list[str]], said: str, answered: bool) -> None:
        """Calls side by side in one answer, which may have text, too; recorded at its end, then their results."""
        number = next(self._numbers)
        name, ids = f"m{number}", [f"c{number}-{n}" for n in range(len(arguments))]
        self.stream.text_delta(name, said)
        for call in ids:
            self.stream.call_started(call, "tool", name)
        for parts in itertools.zip_longest(*arguments, fillvalue=""):
            for call, part in zip(ids, parts, strict=True):
                self.stream.call_arguments(call, part)
        self.stream.text_ended(name)
        for call in ids:
            self.stream.call_ended(call)
        made = [
            {"id": call, "type": "function", "function": {"name": "tool", "arguments": "".join(parts)}}
            for call, parts in zip(ids, arguments, strict=True)
        ]
        self.record({"id": name, "role": "assistant", "toolCalls": made} | ({"content": said} if said else {}))
        for call in ids if answered else ():
            self.stream.call_result(call, "done", f"result-{call}")
            self.record({"id": f"result-{call}", "role": "tool", "toolCallId": call, "content": "done"})

    def orphan_call(self, argument: str) -> None:
        call = f"c{next(self._numbers)}"
        self.stream.call_started(call, "tool")
        self.stream.call_arguments(call, argument)
        self.stream.call_ended(call)

    def think(self, pieces: list[str]) -> None:
        name = f"thought{next(self._numbers)}"
        for piece in pieces:
            self.stream.reasoning_delta(name, piece)
        self.stream.reasoning_ended(name)

    def step(self, open_: bool) -> None:
        self.stream.step_started("stage") if open_ else self.stream.step_finished("stage")

    def state(self, whole: bool, value: int) -> None:
        if whole:
            self.stream.state_snapshot({"value": value})
        else:
            self.stream.state_delta([{"op": "add", "path": f"/n{value}", "value": value}])

    def record(self, message: Json) -> None:
        self.rows.setdefault(len(self.events), []).append(message)

    def rows_before(self, count: int) -> list[Json]:
        return [row for place, rows in sorted(self.rows.items()) if place <= count for row in rows]


words = st.lists(st.sampled_from(["one ", "two ", "ü"]), max_size=4)
deeds = st.one_of(
    st.tuples(st.just("text"), words, st.booleans()),
    st.tuples(st.just("calls"), st.lists(words, min_size=1, max_size=3), st.sampled_from(["", "so"]), st.booleans()),
    st.tuples(st.just("orphan_call"), st.sampled_from(["", "{}"])),
    st.tuples(st.just("think"), words),
    st.tuples(st.just("step"), st.booleans()),
    st.tuples(st.just("state"), st.booleans(), st.integers(0, 3)),
)


def played(given_deeds: list[tuple[Any, ...]]) -> Leg:
    leg = Leg()
    for name, *arguments in given_deeds:
        getattr(leg, name)(*arguments)
    leg.stream.close_open()
    leg.emit(FINISHED)
    return leg


def shown_to_a_newcomer(leg: Leg, seen: int, recorded: int) -> list[Json]:
    """The prelude after `seen` events, for rows that are `recorded` events behind or ahead of that."""
    scene = Scene(leg.rows_before(recorded), {})
    for event in leg.events[:seen]:
        scene.see(event)
    return [run_started("t", "r"), *scene.events()]


@given(st.lists(deeds, max_size=6), st.data())
def test_a_newcomer_sees_what_the_others_see(given_deeds: list[tuple[Any, ...]], data: st.DataObject):
    leg = played(given_deeds)
    seen = data.draw(st.integers(1, len(leg.events) - 1))
    recorded = data.draw(st.integers(0, seen))
    newcomer = Page.of(shown_to_a_newcomer(leg, seen, recorded) + leg.events[seen:])
    witness = Page.of(leg.events, [USER])
    withdrawn = {e["messageId"] for e in leg.events if e["type"] == "TEXT_MESSAGE_END" and "metadata" in e}
    assert sorted((m for m in newcomer.said() if m["id"] not in withdrawn), key=lambda m: m["id"]) == sorted(
        (m for m in witness.said() if m["id"] not in withdrawn), key=lambda m: m["id"]
    )
    assert newcomer.state == witness.state
    assert newcomer.verifier.ended


@given(st.lists(deeds, max_size=6), st.data())
def test_a_page_that_kept_half_of_it_gets_nothing_twice(given_deeds: list[tuple[Any, ...]], data: st.DataObject):
    """It lost its connection at any point, and now comes without a cursor."""
    leg = played(given_deeds)
    seen = data.draw(st.integers(1, len(leg.events) - 1))
    left_at = data.draw(st.integers(1, seen))
    before = Page.of(leg.events[:left_at], [USER])
    again = Page.of(
        shown_to_a_newcomer(leg, seen, data.draw(st.integers(0, seen))) + leg.events[seen:], before.messages
    )
    witness = Page.of(leg.events, [USER])
    assert {m["id"]: m for m in again.said() if m in witness.said()} == {m["id"]: m for m in again.said()}
    withdrawn = {e["messageId"] for e in leg.events if e["type"] == "TEXT_MESSAGE_END" and "metadata" in e}
    assert {m["id"] for m in witness.said()} - withdrawn <= {m["id"] for m in again.said()}


def test_the_order_of_messages_is_kept():
    leg = played([("text", ["one "], False), ("calls", [["{}"]], "", True), ("text", ["two "], False)])
    for seen in range(1, len(leg.events)):
        page = Page.of(shown_to_a_newcomer(leg, seen, seen) + leg.events[seen:])
        assert [m["id"] for m in page.messages] == ["u", "m0", "m1", "result-c1-0", "m2"], seen


def test_a_snapshot_takes_back_what_no_row_has():
    """A new attempt closed what the dead one showed, and said what stands."""
    leg = Leg()
    leg.stream.text_delta("dead", "half an ans")
    leg.stream.close_open()
    leg.emit({"type": "MESSAGES_SNAPSHOT", "messages": [USER]})
    leg.stream.text_delta("new", "an answer")
    page = Page.of(shown_to_a_newcomer(leg, len(leg.events), 0))
    assert page.said() == [USER, {"id": "new", "role": "assistant", "content": "an answer"}]


def test_chunks_lose_their_first_or_last_event():
    start, end = run_started("t", "r"), FINISHED
    both = Chunk.unlogged(start, end, closing=True)
    assert (rest := both.without_start()) is not None
    assert rest.closing
    assert rest.events() == [end]
    assert (rest := both.without_last()) is not None
    assert not rest.closing
    assert rest.events() == [start]
    assert Chunk.unlogged(start).without_start() is None
    assert Chunk.unlogged(end, closing=True).without_last() is None
    snapshot = Chunk.unlogged(messages_snapshot(()))
    assert snapshot.without_start() is snapshot
