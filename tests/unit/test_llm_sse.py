"""The fast reader of OpenAI-shaped streams sees what the SDK's own reader sees, wherever the bytes are cut."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai._streaming import SSEDecoder

from callboard_runtime.llm.errors import ModelBadResponse, model_error
from callboard_runtime.llm.sse import MAX_EVENT_BYTES, EventDecodeError, EventReader, parse

LINES = st.sampled_from(
    [b"data: {}", b"data:x", b"data:  two", b"", b"", b": comment", b"event: e", b"id: 1", b"data: \xc3\xbc"]
)
BREAKS = st.sampled_from([b"\n", b"\r\n"])


@given(st.lists(LINES, max_size=12), BREAKS, st.lists(st.integers(0, 200), max_size=6))
async def test_events_are_those_of_the_sdk(lines: list[bytes], line_break: bytes, cuts: list[int]) -> None:
    whole = b"".join(line + line_break for line in lines)
    edges = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[begin:end] for begin, end in itertools.pairwise(edges)]
    reader = EventReader()
    read = [event.decode() for chunk in chunks for event in reader.feed(chunk)]
    theirs = [event.data async for event in SSEDecoder().aiter_bytes(_each(chunks))]
    assert [event for event in read if event] == [event for event in theirs if event]


async def _each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.mark.parametrize("piece", [b"data: " + b"x" * 1000, b"data: " + b"x" * 1000 + b"\n"])
def test_an_event_that_never_ends_is_refused(piece: bytes) -> None:
    reader = EventReader()
    pieces = itertools.repeat(piece, 2 * MAX_EVENT_BYTES // len(piece))
    with pytest.raises(EventDecodeError) as caught:
        assert not any(map(reader.feed, pieces))
    assert isinstance(model_error(caught.value, "openai", "m"), ModelBadResponse)


def test_events_that_end_may_be_many() -> None:
    reader = EventReader()
    event = b"data: " + b"x" * 100_000 + b"\n\n"
    assert sum(len(reader.feed(event)) for _ in range(2 * MAX_EVENT_BYTES // len(event) + 1)) > 20


def test_half_of_a_surrogate_pair_is_read() -> None:
    assert parse(b'{"t": "\\ud83d"}') == {"t": "\ud83d"}


def test_what_is_no_json_is_refused() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        parse(b"<html>")
