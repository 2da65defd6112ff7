"""Which messages a model is sent."""

from __future__ import annotations

import uuid
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.entry.brief import HistoryMessage
from callboard_runtime.entry.history import Remembered, estimate_tokens, pin_history, whole_turns

EARLIER, NOW = uuid.UUID(int=1), uuid.UUID(int=2)


def said(role: str, content: Any, run: uuid.UUID = EARLIER, **more: Any) -> Remembered:
    return Remembered(run, HistoryMessage(role, content, **more))


def asked(*ids: str, content: str | None = None) -> Remembered:
    return said("assistant", content, tool_calls=tuple({"id": i, "function": {"name": "f"}} for i in ids))


def answered(call: str) -> Remembered:
    return said("tool", "result", tool_call_id=call)


def texts(history: tuple[HistoryMessage, ...]) -> list[Any]:
    return [message.content for message in history]


def test_the_newest_messages_that_fit_are_kept_in_order() -> None:
    messages = [said("user", f"{n}" * 40) for n in range(1, 6)]
    assert texts(pin_history(messages, NOW, 3 * 14)) == ["3" * 40, "4" * 40, "5" * 40]


def test_the_runs_own_messages_are_kept_whatever_their_size() -> None:
    messages = [said("user", "old"), said("user", "x" * 10_000, NOW), said("user", "y", NOW)]
    assert texts(pin_history(messages, NOW, 1)) == ["x" * 10_000, "y"]


def test_nothing_older_than_the_first_message_that_does_not_fit_is_kept() -> None:
    messages = [said("user", "small"), said("user", "x" * 10_000), said("user", "last")]
    assert texts(pin_history(messages, NOW, 100)) == ["last"]


def test_a_tool_turn_is_never_cut_in_half() -> None:
    messages = [said("user", "q" * 100), asked("a", "b"), answered("a"), answered("b"), said("assistant", "so")]
    kept = pin_history(messages, NOW, sum(estimate_tokens(m.message) for m in messages[2:]))
    assert texts(kept) == ["so"]
    assert len(pin_history(messages, NOW, 10_000)) == 5


def test_calls_without_an_answer_are_left_out() -> None:
    one_of_two = whole_turns(m.message for m in (asked("a", "b"), answered("a")))
    assert [call["id"] for call in one_of_two[0].tool_calls] == ["a"]
    assert whole_turns([asked("a").message]) == ()
    (kept,) = whole_turns([asked("a", content="text").message])
    assert (kept.content, kept.tool_calls) == ("text", ())


def test_content_parts_count_by_their_json() -> None:
    parts = HistoryMessage("user", [{"type": "text", "text": "x" * 400}])
    assert 100 < estimate_tokens(parts) < 130


def test_other_scripts_cost_more_tokens_per_character() -> None:
    assert estimate_tokens(HistoryMessage("user", "語" * 40)) > estimate_tokens(HistoryMessage("user", "a" * 40))


messages = st.lists(
    st.one_of(
        st.builds(said, st.sampled_from(["user", "assistant"]), st.text(max_size=80), st.sampled_from([EARLIER, NOW])),
        st.lists(st.sampled_from("abc"), min_size=1, max_size=2, unique=True).map(lambda ids: asked(*ids)),
        st.sampled_from("abc").map(answered),
    ),
    max_size=25,
)


@given(messages, st.integers(1, 300))
def test_every_call_has_an_answer_and_every_answer_a_call(given_: list[Remembered], budget: int) -> None:
    kept = pin_history(given_, NOW, budget)
    calls = {call["id"] for message in kept for call in message.tool_calls}
    assert calls == {message.tool_call_id for message in kept if message.role == "tool"}
    own = [m.message for m in given_ if m.run_id == NOW and m.message.role == "user"]
    own_ids = [id(message) for message in own]  # equal messages may be there before
    assert [id(message) for message in kept if id(message) in own_ids] == own_ids
    assert pin_history(given_, NOW, budget) == kept
