"""A published message: where it was sent, its raw properties and its body."""

from dataclasses import dataclass, replace

from pamqp import common

from callboard_runtime.embedded.amqp import properties, wire
from callboard_runtime.embedded.amqp.properties import Field

MAX_TTL_MS = 10 * 365 * 24 * 3600 * 1000  # ten years, as in RabbitMQ
_MAX_DIGITS = len(str(MAX_TTL_MS))


@dataclass(frozen=True, slots=True)
class Message:
    exchange: str
    routing_key: str
    address: bytes
    properties: bytes
    body: bytes

    @classmethod
    def create(cls, exchange: str, routing_key: str, raw_properties: bytes, body: bytes) -> "Message":
        address = wire.short_string(exchange) + wire.short_string(routing_key)
        return cls(exchange, routing_key, address, raw_properties, body)

    @property
    def size(self) -> int:
        """Bytes counted against the broker's memory; a queue's own limit counts the body alone."""
        return len(self.body) + len(self.properties)

    def headers(self) -> common.FieldTable:
        return properties.headers(self.properties)

    def expiration_ms(self) -> int | None:
        """The publisher's own time to live; raises ValueError when it is not a number of milliseconds."""
        value = properties.text(self.properties, Field.EXPIRATION)
        if value is None:
            return None
        if not value.isdecimal() or len(value) > _MAX_DIGITS or int(value) > MAX_TTL_MS:
            raise ValueError(f"expiration must be a whole number of milliseconds up to {MAX_TTL_MS}, got {value!r}")
        return int(value)

    def with_properties(self, raw: bytes) -> "Message":
        return replace(self, properties=raw)
