"""Frames in and out of bytes: methods through pamqp, the three hot ones (publish, ack, deliver) by hand.

In: bytes of one socket.  Out: `RawFrame`s, decoded methods, and bytes to write.
"""

import struct
from collections.abc import Iterator
from typing import NamedTuple

from pamqp import base, commands, constants, frame

from callboard_runtime.embedded.amqp.errors import ConnectionFault

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT = struct.pack(">BHIB", constants.FRAME_HEARTBEAT, 0, 0, constants.FRAME_END)
PUBLISH = commands.Basic.Publish.index
ACK = commands.Basic.Ack.index

_FRAME_OVERHEAD = constants.FRAME_HEADER_SIZE + 1
_FRAME = struct.Struct(">BHI")
_INDEX = struct.Struct(">I")
_CONTENT_HEADER = struct.Struct(">HHQ")
_TAG_AND_BIT = struct.Struct(">QB")
_FRAME_TYPES = (
    constants.FRAME_METHOD,
    constants.FRAME_HEADER,
    constants.FRAME_BODY,
    constants.FRAME_HEARTBEAT,
)


class RawFrame(NamedTuple):
    kind: int
    channel: int
    payload: bytes


class PublishMethod(NamedTuple):
    """`address` is exchange and routing key as two encoded short strings, ready to be relayed."""

    exchange: str
    routing_key: str
    address: bytes
    mandatory: bool
    immediate: bool


class FrameDecoder:
    """Cuts a byte stream into frames; `frame_max` (bytes, header and end included) may be lowered at any time."""

    def __init__(self, frame_max: int) -> None:
        self.frame_max = frame_max
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[RawFrame]:
        """Yield the frames completed by `data`; raises ConnectionFault 501 on a malformed one."""
        data = self._rest + data
        offset = 0
        self._rest = b""
        while (end := self._frame_end(data, offset)) is not None:
            kind, channel, _ = _FRAME.unpack_from(data, offset)
            yield RawFrame(kind, channel, data[offset + constants.FRAME_HEADER_SIZE : end - 1])
            offset = end
        self._rest = data[offset:]

    def _frame_end(self, data: bytes, offset: int) -> int | None:
        if len(data) - offset < constants.FRAME_HEADER_SIZE:
            return None
        kind, _, size = _FRAME.unpack_from(data, offset)
        if kind not in _FRAME_TYPES:
            raise ConnectionFault(501, f"unknown frame type {kind}")
        if size + _FRAME_OVERHEAD > self.frame_max:
            raise ConnectionFault(501, f"frame of {size} bytes is larger than frame_max {self.frame_max}")
        end = offset + size + _FRAME_OVERHEAD
        if end > len(data):
            return None
        if data[end - 1] != constants.FRAME_END:
            raise ConnectionFault(501, "frame does not end with the frame-end octet")
        return end


def method_index(payload: bytes) -> int:
    if len(payload) < 4:
        raise ConnectionFault(502, "method frame is shorter than a method id")
    index: int = _INDEX.unpack_from(payload)[0]
    return index


def decode_method(payload: bytes) -> base.Frame:
    """Decode any method; raises ConnectionFault 503 (unknown) or 502 (undecodable)."""
    index = method_index(payload)
    kind = commands.INDEX_MAPPING.get(index)
    if kind is None:
        raise ConnectionFault(503, f"unknown method {index >> 16}.{index & 0xFFFF}")
    method: base.Frame = kind()
    try:
        method.unmarshal(payload[4:])
    except (struct.error, ValueError, IndexError, RecursionError) as error:
        raise ConnectionFault(502, f"arguments of {method.name} cannot be decoded") from error
    return method


def decode_publish(payload: bytes) -> PublishMethod:
    try:
        key_at = 7 + payload[6]
        end = key_at + 1 + payload[key_at]
        bits = payload[end]
        exchange, routing_key = payload[7:key_at].decode(), payload[key_at + 1 : end].decode()
    except (IndexError, UnicodeDecodeError) as error:
        raise ConnectionFault(502, "arguments of Basic.Publish cannot be decoded") from error
    return PublishMethod(exchange, routing_key, payload[6:end], bool(bits & 1), bool(bits & 2))


def decode_ack(payload: bytes) -> tuple[int, bool]:
    if len(payload) != 13:
        raise ConnectionFault(502, "arguments of Basic.Ack cannot be decoded")
    tag, multiple = _TAG_AND_BIT.unpack_from(payload, 4)
    return tag, bool(multiple & 1)


def decode_content_header(payload: bytes) -> tuple[int, bytes]:
    """Body size in bytes, and the raw properties."""
    if len(payload) < _CONTENT_HEADER.size + 2:
        raise ConnectionFault(502, "content header frame is cut short")
    class_id, _, size = _CONTENT_HEADER.unpack_from(payload)
    if class_id != commands.Basic.frame_id:
        raise ConnectionFault(501, f"content header of class {class_id}, expected {commands.Basic.frame_id}")
    return size, payload[_CONTENT_HEADER.size :]


def short_string(value: str) -> bytes:
    encoded = value.encode()
    return bytes((len(encoded),)) + encoded


def encode_method(method: base.Frame, channel: int) -> bytes:
    return frame.marshal(method, channel)


def encode_raw_method(index: int, channel: int, arguments: bytes) -> bytes:
    return _frame(constants.FRAME_METHOD, channel, _INDEX.pack(index) + arguments)


def encode_declare_ok(channel: int, queue: str, messages: int, consumers: int) -> bytes:
    """pamqp refuses queue names outside the spec's alphabet when encoding; RabbitMQ and py-amqp do not."""
    arguments = short_string(queue) + struct.pack(">II", messages, consumers)
    return encode_raw_method(commands.Queue.DeclareOk.index, channel, arguments)


def encode_deliver(channel: int, consumer_tag: bytes, tag: int, redelivered: bool, address: bytes) -> bytes:
    arguments = consumer_tag + _TAG_AND_BIT.pack(tag, redelivered) + address
    return encode_raw_method(commands.Basic.Deliver.index, channel, arguments)


def encode_get_ok(channel: int, tag: int, redelivered: bool, address: bytes, remaining: int) -> bytes:
    arguments = _TAG_AND_BIT.pack(tag, redelivered) + address + _INDEX.pack(remaining)
    return encode_raw_method(commands.Basic.GetOk.index, channel, arguments)


def encode_return(channel: int, address: bytes) -> bytes:
    arguments = struct.pack(">H", 312) + short_string("NO_ROUTE") + address
    return encode_raw_method(commands.Basic.Return.index, channel, arguments)


def encode_content(channel: int, properties: bytes, body: bytes, frame_max: int) -> bytes:
    """Header and body frames of one message, the body split to fit `frame_max`."""
    header = _CONTENT_HEADER.pack(commands.Basic.frame_id, 0, len(body)) + properties
    parts = [_frame(constants.FRAME_HEADER, channel, header)]
    step = frame_max - _FRAME_OVERHEAD
    parts += [_frame(constants.FRAME_BODY, channel, body[at : at + step]) for at in range(0, len(body), step)]
    return b"".join(parts)


def _frame(kind: int, channel: int, payload: bytes) -> bytes:
    return _FRAME.pack(kind, channel, len(payload)) + payload + constants.FRAME_END_CHAR
