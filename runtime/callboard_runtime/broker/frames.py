"""Frames that are written often, encoded at once: the general encoder takes longer than all else about them."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache

BASIC, PUBLISH, ACK, NACK = 60, 40, 80, 120  # class and methods
METHOD_FRAME, HEADER_FRAME, BODY_FRAME, END = 1, 2, 3, b"\xce"
HEADERS_AND_DELIVERY_MODE = 0x3000  # the properties that follow
TYPE_DELIVERY_MODE_AND_CORRELATION = 0x9400
TRANSIENT = b"\x01"

Header = str | int | bool


def transient(
    channel: int, exchange: str, routing_key: str, headers: Mapping[str, Header], body: bytes, room: int
) -> bytes:
    """A publish without confirmation, as it goes over the wire; `room` is what one body frame may hold."""
    table = b"".join(_entry(name, value) for name, value in headers.items())
    header = struct.pack(">HHQHI", BASIC, 0, len(body), HEADERS_AND_DELIVERY_MODE, len(table)) + table + TRANSIENT
    parts = [_method(channel, exchange, routing_key), _frame(HEADER_FRAME, channel, header)]
    parts += [_frame(BODY_FRAME, channel, body[at : at + room]) for at in range(0, len(body), room)]
    return b"".join(parts)


def reply(channel: int, reply_to: str, correlation_id: str, body: bytes, room: int) -> bytes:
    """A JSON answer to a caller's queue, by way of the default exchange, without confirmation."""
    properties = _JSON + TRANSIENT + _short(correlation_id)
    header = struct.pack(">HHQH", BASIC, 0, len(body), TYPE_DELIVERY_MODE_AND_CORRELATION) + properties
    parts = [_method(channel, "", reply_to), _frame(HEADER_FRAME, channel, header)]
    parts += [_frame(BODY_FRAME, channel, body[at : at + room]) for at in range(0, len(body), room)]
    return b"".join(parts)


def basic_ack(channel: int, tag: int, *, multiple: bool = False) -> bytes:
    """`multiple`: this delivery and all open ones before it."""
    return _SETTLEMENT.pack(METHOD_FRAME, channel, 13, BASIC, ACK, tag, multiple, END)


def basic_nack(channel: int, tag: int, *, requeue: bool) -> bytes:
    return _SETTLEMENT.pack(METHOD_FRAME, channel, 13, BASIC, NACK, tag, 2 * requeue, END)


_SETTLEMENT = struct.Struct(">BHIHHQBc")


@lru_cache(maxsize=1024)
def _method(channel: int, exchange: str, routing_key: str) -> bytes:
    names = _short(exchange) + _short(routing_key)
    return _frame(METHOD_FRAME, channel, struct.pack(">HHH", BASIC, PUBLISH, 0) + names + b"\0")


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, channel, len(payload)) + payload + END


def _entry(name: str, value: Header) -> bytes:
    if isinstance(value, bool):
        return _name(name) + (b"t\x01" if value else b"t\x00")
    if isinstance(value, int):
        return _name(name) + struct.pack(">cq", b"l", value)
    text = value.encode()
    return _name(name) + struct.pack(">cI", b"S", len(text)) + text


@lru_cache(maxsize=64)
def _name(name: str) -> bytes:
    return _short(name)


def _short(text: str) -> bytes:
    encoded = text.encode()
    return bytes((len(encoded),)) + encoded


_JSON = _short("application/json")
