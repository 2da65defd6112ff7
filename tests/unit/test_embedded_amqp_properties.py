"""Raw properties: cut and joined without loss, and never trusted."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, header

from callboard_runtime.embedded.amqp import properties
from callboard_runtime.embedded.amqp.properties import Field

_TEXT = st.text(max_size=20)
_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), _TEXT, st.binary(max_size=9).map(bytearray)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(_TEXT, inner, max_size=3)),
    max_leaves=8,
)
_HEADERS = st.dictionaries(_TEXT, _VALUES, max_size=4)
_PROPERTIES = st.builds(
    commands.Basic.Properties,
    content_type=st.one_of(st.none(), _TEXT),
    headers=st.one_of(st.none(), _HEADERS),
    delivery_mode=st.sampled_from([None, 1, 2]),
    priority=st.one_of(st.none(), st.integers(0, 9)),
    correlation_id=st.one_of(st.none(), _TEXT),
    reply_to=st.one_of(st.none(), _TEXT),
    expiration=st.one_of(st.none(), st.integers(0, 10**6).map(str)),
    message_id=st.one_of(st.none(), _TEXT),
    app_id=st.one_of(st.none(), _TEXT),
)


def _decode(raw: bytes) -> commands.Basic.Properties:
    decoded = header.ContentHeader()
    decoded.unmarshal(struct.pack(">HHQ", 60, 0, 0) + raw)
    return decoded.properties


@given(_PROPERTIES)
def test_split_and_join_give_back_the_same_bytes(original: commands.Basic.Properties) -> None:
    raw = original.marshal()
    assert properties.join(properties.split(raw)) == raw


@given(_PROPERTIES, _TEXT)
def test_setting_reply_to_changes_nothing_else(original: commands.Basic.Properties, reply_to: str) -> None:
    raw = original.marshal()
    before = properties.split(raw)
    changed = properties.with_text(raw, Field.REPLY_TO, reply_to)
    assert properties.text(changed, Field.REPLY_TO) == reply_to
    after = properties.split(changed)
    assert {field: after[field] for field in after if field is not Field.REPLY_TO} == {
        field: before[field] for field in before if field is not Field.REPLY_TO
    }


@given(_PROPERTIES, _HEADERS.filter(bool))
def test_setting_headers_keeps_the_others(original: commands.Basic.Properties, changes: dict[str, object]) -> None:
    before = properties.headers(original.marshal())
    changed = properties.with_headers(original.marshal(), changes)  # pyright: ignore[reportArgumentType] - generated
    assert properties.headers(changed) == {**before, **changes}
    assert _decode(changed).correlation_id == _decode(original.marshal()).correlation_id


def test_a_double_keeps_its_precision_when_headers_change() -> None:
    table = b"\x01dd" + struct.pack(">d", 0.1)
    raw = properties.join({Field.HEADERS: struct.pack(">I", len(table)) + table})
    assert properties.headers(properties.with_headers(raw, {"x": 1})) == {"d": 0.1, "x": 1}


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_refused_or_readable_by_every_consumer(raw: bytes) -> None:
    try:
        properties.split(raw)
    except ValueError:
        return
    _decode(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"\x80", "before its property flags"),
        (b"\x80\x00\x05ab", "cut short"),
        (b"\x00\x00extra", "more bytes"),
        (b"\x00\x01\x00\x00", "does not have"),
        (b"\x20\x00" + struct.pack(">I", 4) + b"\x01kZ\x00", "unknown type"),
        (b"\x20\x00" + struct.pack(">I", 3) + b"\x01kI\x00\x00\x00\x01", "over the end"),
    ],
)
def test_malformed_properties_are_named(raw: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        properties.split(raw)


def test_deep_nesting_is_refused() -> None:
    value = b"V"
    for _ in range(100):
        value = b"A" + struct.pack(">I", len(value)) + value
    table = b"\x01k" + value
    with pytest.raises(ValueError, match="nest deeper"):
        properties.split(b"\x20\x00" + struct.pack(">I", len(table)) + table)
