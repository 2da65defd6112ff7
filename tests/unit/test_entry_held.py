"""Held work stays so small that whatever command takes it along has room for its own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.domain.commands import StepRecord
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.entry.held import MAX_HELD_BYTES, HeldWork, Work

MOVES = st.lists(st.sampled_from(["answer", "message", "take", "sent", "refused"]), max_size=60)


def answer(key: str) -> Work:
    text = "\n" * 4000  # 8000 bytes of JSON
    return Work((StepRecord(key=key, result={"text": text}, usage=CallUsage(provider="p", model="m")),))


def message(key: str) -> Work:
    return Work(answer(key).records, (NewMessage(message_id=key, role="assistant", content="\u4e2d" * 3000),))


@given(MOVES)
async def test_it_keeps_its_bound_and_its_order_whatever_comes_back(moves: list[str]) -> None:
    held, away, expected, sent = HeldWork(lambda: None), Work(), list[str](), list[str]()
    for number, move in enumerate(moves):
        key = f"{number:02}"
        if move in ("answer", "message"):
            expected += [key] if held.hold(answer(key) if move == "answer" else message(key)) else []
        elif move == "take":
            sent += [record.key for record in away.records]
            away = held.take()
        elif move == "sent":
            sent += [record.key for record in away.records]
            held.sent()
            away = Work()
        else:
            held.put_back(away)
            away = Work()
        everything = Work((*held._work.records, *away.records), (*held._work.messages, *away.messages))  # pyright: ignore[reportPrivateUsage]
        assert everything.bytes() <= MAX_HELD_BYTES
    sent += [record.key for work in (away, held.take()) for record in work.records]
    held.drop()
    assert sent == expected


async def test_what_was_sent_takes_no_room() -> None:
    held, most = HeldWork(lambda: None), MAX_HELD_BYTES // answer("00").bytes()
    for _ in range(3):
        assert [held.hold(answer(f"{number:02}")) for number in range(most + 1)] == [True] * most + [False]
        held.take()
        held.sent()


async def test_what_a_tool_came_to_is_never_held() -> None:
    assert not HeldWork(lambda: None).hold(Work((StepRecord(key="tool:1", result={"content": "done"}),)))
