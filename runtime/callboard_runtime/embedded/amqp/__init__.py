"""A small in-memory AMQP 0-9-1 broker for one machine; see `EmbeddedBroker`."""

from callboard_runtime.embedded.amqp.handshake import Limits
from callboard_runtime.embedded.amqp.server import EmbeddedBroker

__all__ = ["EmbeddedBroker", "Limits"]
