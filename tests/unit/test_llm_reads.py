"""Streams that share a process are read at common moments; neighbours that only have text become one delta."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callboard_runtime.llm.messages import CallDelta, Delta, Usage
from callboard_runtime.llm.provider import joined
from callboard_runtime.llm.reads import AT_ONCE, ReadMoments

TEXTS = st.text("ab", max_size=3)
DELTAS = st.none() | st.builds(
    Delta,
    TEXTS,
    st.sampled_from(["", "", "hm"]),
    st.sampled_from([(), (), (CallDelta(0, "c", "n", "{}"),)]),
    st.sampled_from([None, None, "stop"]),
    st.sampled_from([None, None, Usage(1, 2, 0, 0)]),
).filter(lambda delta: delta != Delta())


@given(st.lists(DELTAS, max_size=8))
def test_joining_changes_neither_what_is_said_nor_its_order(deltas: list[Delta | None]) -> None:
    said = [delta for delta in deltas if delta is not None]
    together = list(joined(deltas))
    assert "".join(delta.text for delta in together) == "".join(delta.text for delta in said)
    assert [_beside_text(d) for d in together if _beside_text(d)] == [_beside_text(d) for d in said if _beside_text(d)]
    before = [_text_before(said, delta) for delta in said if _beside_text(delta)]
    assert [_text_before(together, delta) for delta in together if _beside_text(delta)] == before
    assert len(together) <= 2 * len(before) + 1


def _beside_text(delta: Delta) -> tuple[object, ...]:
    return tuple(filter(None, (delta.reasoning, delta.calls, delta.finish, delta.usage)))


def _text_before(deltas: list[Delta], found: Delta) -> str:
    position = next(index for index, delta in enumerate(deltas) if delta is found)
    return "".join(delta.text for delta in deltas[:position])


async def test_readers_go_on_together_a_few_in_a_turn() -> None:
    moments = ReadMoments(lambda: 0.02)
    waiting = [moments.next() for _ in range(2 * AT_ONCE + 1)]
    first = waiting[0]
    assert first is not None
    await first
    gone_on = [waiter is not None and waiter.done() for waiter in waiting]
    assert gone_on == [True] * AT_ONCE + [False] * (AT_ONCE + 1)
    for waiter in waiting:
        assert waiter is not None
        await waiter


async def test_nothing_is_waited_for_while_few_share_the_process() -> None:
    assert ReadMoments(lambda: 0.0).next() is None


async def test_a_reader_that_gave_up_holds_up_nobody() -> None:
    moments = ReadMoments(lambda: 0.02)
    gone, other = moments.next(), moments.next()
    assert gone is not None
    assert other is not None
    gone.cancel()
    await other
