"""What is written without pamqp is read by it as what it was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from callboard_runtime.broker.frames import Header, basic_ack, basic_nack, reply, transient

NAMES = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1, max_size=30)
VALUES = st.one_of(st.booleans(), st.integers(-(2**63), 2**63 - 1), st.text(max_size=40))


def read(wire: bytes, channel: int) -> list[object]:
    """Its frames, all of this channel, as pamqp reads them."""
    frames: list[object] = []
    while wire:
        used, number, found = frame.unmarshal(wire)
        assert number == channel
        frames.append(found)
        wire = wire[used:]
    return frames


@given(st.dictionaries(NAMES, VALUES, max_size=8), st.binary(max_size=300), st.integers(1, 200), st.integers(1, 2047))
def test_pamqp_reads_the_same(headers: dict[str, Header], body: bytes, room: int, channel: int) -> None:
    publish, header, *parts = read(transient(channel, "callboard.lanes", "lane.7", headers, body, room), channel)
    assert isinstance(publish, Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("callboard.lanes", "lane.7", False)
    assert isinstance(header, ContentHeader)
    assert (header.body_size, header.properties.delivery_mode) == (len(body), 1)
    assert (header.properties.headers or {}) == headers
    contents = [part.value for part in parts if isinstance(part, ContentBody)]
    assert len(contents) == len(parts)
    assert b"".join(contents) == body
    assert all(len(content) <= room for content in contents)


@given(st.integers(1, 2**63 - 1), st.integers(1, 2047), st.booleans())
def test_pamqp_reads_settlements(tag: int, channel: int, flag: bool) -> None:
    _, number, ack = frame.unmarshal(basic_ack(channel, tag, multiple=flag))
    assert isinstance(ack, Basic.Ack)
    assert (number, ack.delivery_tag, ack.multiple) == (channel, tag, flag)
    _, number, nack = frame.unmarshal(basic_nack(channel, tag, requeue=flag))
    assert isinstance(nack, Basic.Nack)
    assert (number, nack.delivery_tag, nack.multiple, nack.requeue) == (channel, tag, False, flag)


@given(NAMES, NAMES, st.binary(max_size=300), st.integers(1, 200), st.integers(1, 2047))
def test_pamqp_reads_replies(queue: str, correlation: str, body: bytes, room: int, channel: int) -> None:
    publish, header, *parts = read(reply(channel, queue, correlation, body, room), channel)
    assert isinstance(publish, Basic.Publish)
    assert (publish.exchange, publish.routing_key, publish.mandatory) == ("", queue, False)
    assert isinstance(header, ContentHeader)
    told = header.properties
    assert (told.content_type, told.correlation_id, told.delivery_mode) == ("application/json", correlation, 1)
    assert header.body_size == len(body)
    assert b"".join(part.value for part in parts if isinstance(part, ContentBody)) == body
