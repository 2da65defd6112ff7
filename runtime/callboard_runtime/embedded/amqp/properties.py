"""Basic properties as the publisher encoded them: read, checked and changed in place, so that relaying loses nothing.

Decoding and encoding again would narrow doubles and refuse byte strings; cutting the raw segments does neither.
"""

import struct
from enum import IntEnum

from pamqp import common, decode, encode


class Field(IntEnum):
    """Position of a property on the wire; its flag is `0x8000 >> position`."""

    CONTENT_TYPE = 0
    CONTENT_ENCODING = 1
    HEADERS = 2
    DELIVERY_MODE = 3
    PRIORITY = 4
    CORRELATION_ID = 5
    REPLY_TO = 6
    EXPIRATION = 7
    MESSAGE_ID = 8
    TIMESTAMP = 9
    TYPE = 10
    USER_ID = 11
    APP_ID = 12
    CLUSTER_ID = 13


_FIXED_SIZES = {Field.DELIVERY_MODE: 1, Field.PRIORITY: 1, Field.TIMESTAMP: 8}
_VALUE_SIZES = dict(
    zip(b"tbBsuIilLfdDTV\x00", (1, 1, 1, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0, 0), strict=True),
)
_LENGTH = struct.Struct(">I")
_FLAGS = struct.Struct(">H")
_MAX_NESTING = 32

EMPTY = b"\x00\x00"


def has(raw: bytes, field: Field) -> bool:
    return bool(_FLAGS.unpack_from(raw)[0] & (0x8000 >> field))


def split(raw: bytes) -> dict[Field, bytes]:
    """Cut properties into one raw segment per field.

    Raises ValueError when a segment, or any value inside the headers, does not end where it says.
    """
    flags = _flags(raw)
    segments: dict[Field, bytes] = {}
    position = 2
    for field in Field:
        if flags & (0x8000 >> field):
            end = _segment_end(raw, position, field)
            segments[field] = raw[position:end]
            position = end
    if position != len(raw):
        raise ValueError("content header carries more bytes than its flags announce")
    return segments


def join(segments: dict[Field, bytes]) -> bytes:
    flags = sum(0x8000 >> field for field in segments)
    return _FLAGS.pack(flags) + b"".join(segments[field] for field in sorted(segments))


def text(raw: bytes, field: Field) -> str | None:
    """The value of a short string property, None when it is absent."""
    segment = split(raw).get(field) if has(raw, field) else None
    return None if segment is None else decode.short_str(segment)[1]


def with_text(raw: bytes, field: Field, value: str | None) -> bytes:
    """The same properties with one short string set, or removed when `value` is None."""
    segments = split(raw)
    if value is None:
        segments.pop(field, None)
    else:
        segments[field] = encode.short_string(value)
    return join(segments)


def headers(raw: bytes) -> common.FieldTable:
    segment = split(raw).get(Field.HEADERS) if has(raw, Field.HEADERS) else None
    return {} if segment is None else decode.field_table(segment)[1]


def with_headers(raw: bytes, changes: common.FieldTable) -> bytes:
    """The same properties with these headers set; every other header keeps its bytes."""
    segments = split(raw)
    kept = [entry for key, entry in _header_entries(segments.get(Field.HEADERS, b"")) if key not in changes]
    added = [encode.short_string(key) + encode.encode_table_value(value) for key, value in changes.items()]
    table = b"".join(kept + added)
    segments[Field.HEADERS] = _LENGTH.pack(len(table)) + table
    return join(segments)


def _flags(raw: bytes) -> int:
    if len(raw) < 2:
        raise ValueError("content header ends before its property flags")
    flags: int = _FLAGS.unpack_from(raw)[0]
    if flags & 0b11:
        raise ValueError("content header announces properties that AMQP 0-9-1 does not have")
    return flags


def _segment_end(raw: bytes, position: int, field: Field) -> int:
    if field is Field.HEADERS:
        return _container_end(raw, position, table=True, depth=0)
    if size := _FIXED_SIZES.get(field):
        return _within(raw, position + size)
    return _short_string_end(raw, position)


def _short_string_end(raw: bytes, position: int) -> int:
    end = _within(raw, _within(raw, position + 1) + raw[position])
    raw[position + 1 : end].decode()
    return end


def _container_end(raw: bytes, position: int, *, table: bool, depth: int) -> int:
    if depth > _MAX_NESTING:
        raise ValueError(f"headers nest deeper than {_MAX_NESTING} levels")
    start = _within(raw, position + 4)
    end = _within(raw, start + _LENGTH.unpack_from(raw, position)[0])
    while start < end:
        value_at = _short_string_end(raw, start) if table else start
        start = _value_end(raw, value_at, depth)
    if start != end:
        raise ValueError("a header value runs over the end of its table")
    return end


def _value_end(raw: bytes, position: int, depth: int) -> int:
    _within(raw, position + 1)
    kind = raw[position : position + 1]
    if kind in (b"F", b"A"):
        return _container_end(raw, position + 1, table=kind == b"F", depth=depth + 1)
    if kind in (b"S", b"x"):
        return _within(raw, _within(raw, position + 5) + _LENGTH.unpack_from(raw, position + 1)[0])
    size = _VALUE_SIZES.get(kind[0])
    if size is None:
        raise ValueError(f"header value of unknown type {kind!r}")
    return _within(raw, position + 1 + size)


def _header_entries(segment: bytes) -> list[tuple[str, bytes]]:
    entries: list[tuple[str, bytes]] = []
    position = 4
    while position < len(segment):
        value_at = _short_string_end(segment, position)
        end = _value_end(segment, value_at, 0)
        entries.append((segment[position + 1 : value_at].decode(), segment[position:end]))
        position = end
    return entries


def _within(raw: bytes, end: int) -> int:
    if end > len(raw):
        raise ValueError("content header is cut short")
    return end
