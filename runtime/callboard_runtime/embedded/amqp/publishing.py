"""The publishing half of a channel: content assembly, routing, returns and confirms.

In: publish methods, content headers and bodies.  Out: messages in queues; basic.return, ack and nack to the publisher.
"""

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pamqp import commands

from callboard_runtime.embedded.amqp import properties, wire
from callboard_runtime.embedded.amqp.errors import ChannelFault, ConnectionFault
from callboard_runtime.embedded.amqp.message import Message
from callboard_runtime.embedded.amqp.properties import Field
from callboard_runtime.embedded.amqp.vhost import Outcome

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.channel import Channel

REPLY_TO = "amq.rabbitmq.reply-to"


@dataclass(slots=True)
class Content:
    """A message whose frames are still arriving."""

    method: wire.PublishMethod
    size: int = -1  # bytes, -1 until the header is here
    received: int = 0
    raw_properties: bytes = properties.EMPTY
    parts: list[bytes] = field(default_factory=list[bytes])


class Confirms:
    """Publish sequence numbers of one channel in confirm mode; consecutive acknowledgements travel as one."""

    def __init__(self) -> None:
        self._sequence = 0
        self._settled = 0

    def accept(self) -> None:
        self._sequence += 1

    def refuse(self) -> list[commands.Basic.Ack | commands.Basic.Nack]:
        """Everything to send now: what was accepted before, then the refusal."""
        before = self.collect()
        self._sequence += 1
        self._settled = self._sequence
        return [*before, commands.Basic.Nack(self._sequence, requeue=False)]

    def collect(self) -> list[commands.Basic.Ack | commands.Basic.Nack]:
        open_count = self._sequence - self._settled
        self._settled = self._sequence
        return [commands.Basic.Ack(self._sequence, multiple=open_count > 1)] if open_count else []


class Publisher:
    def __init__(self, channel: "Channel") -> None:
        self._channel = channel
        self._content: Content | None = None
        self._confirms: Confirms | None = None
        self.reply_token = ""

    @property
    def assembling(self) -> bool:
        return self._content is not None

    def select_confirms(self) -> None:
        self._confirms = self._confirms or Confirms()

    def flush_confirms(self) -> None:
        for method in self._confirms.collect() if self._confirms else ():
            self._channel.send(method)

    def new_reply_token(self) -> str:
        self.reply_token = secrets.token_urlsafe(16)
        return self.reply_token

    def begin(self, method: wire.PublishMethod) -> None:
        if method.immediate:
            raise ConnectionFault(540, "immediate=true is not implemented; use mandatory")
        self._content = Content(method)

    def header(self, payload: bytes) -> None:
        content = self._content
        if content is None or content.size >= 0:
            raise ConnectionFault(505, "content header without basic.publish")
        content.size, content.raw_properties = wire.decode_content_header(payload)
        limit = self._channel.connection.limits.max_message_bytes
        if content.size > limit:
            self._content = None
            raise ChannelFault(406, f"message size {content.size} is larger than the maximum of {limit} bytes")
        self._complete_if_whole(content)

    def body(self, payload: bytes) -> None:
        content = self._content
        if content is None or content.size < 0:
            raise ConnectionFault(505, "content body without content header")
        content.parts.append(payload)
        content.received += len(payload)
        if content.received > content.size:
            raise ConnectionFault(501, f"content body of {content.received} bytes, header announced {content.size}")
        self._complete_if_whole(content)

    def _complete_if_whole(self, content: Content) -> None:
        if content.received == content.size:
            self._content = None
            self._publish(content)

    def _publish(self, content: Content) -> None:
        message = self._message(content)
        outcome = self._route(message)
        if outcome is Outcome.UNROUTED and content.method.mandatory:
            self._channel.send_content(wire.encode_return(self._channel.number, message.address), message)
        self._confirm(outcome)

    def _confirm(self, outcome: Outcome) -> None:
        if self._confirms is None:
            return
        if outcome is not Outcome.REJECTED:
            self._confirms.accept()
            self._channel.connection.confirm_later(self._channel)
            return
        for method in self._confirms.refuse():
            self._channel.send(method)

    def _route(self, message: Message) -> Outcome:
        vhost = self._channel.vhost
        if message.exchange == "" and message.routing_key.startswith(f"{REPLY_TO}."):
            return self._reply(message)
        if vhost.exchange(message.exchange).options.internal:
            raise ChannelFault(403, f"cannot publish to internal exchange '{message.exchange}'")
        if not self._channel.connection.gauge.admits(message.size):
            return self._refuse_for_memory()
        return vhost.publish(message)

    def _message(self, content: Content) -> Message:
        method = content.method
        raw = self._checked_properties(content.raw_properties)
        message = Message(method.exchange, method.routing_key, method.address, raw, b"".join(content.parts))
        try:
            message.expiration_ms()
        except ValueError as error:
            raise ChannelFault(406, str(error)) from error
        return message

    def _checked_properties(self, raw: bytes) -> bytes:
        """Refuse here what would break every consumer later, and resolve the direct reply-to."""
        try:
            segments = properties.split(raw)
        except ValueError as error:
            raise ConnectionFault(502, f"content header cannot be decoded: {error}") from error
        if segments.get(Field.REPLY_TO) != wire.short_string(REPLY_TO):
            return raw
        if not self.reply_token:
            raise ChannelFault(406, "fast reply consumer does not exist")
        return properties.with_text(raw, Field.REPLY_TO, f"{REPLY_TO}.{self.reply_token}")

    def _reply(self, message: Message) -> Outcome:
        target = self._channel.connection.reply_channels.get(message.routing_key.removeprefix(f"{REPLY_TO}."))
        return Outcome.ACCEPTED if target is not None and target.deliver_reply(message) else Outcome.UNROUTED

    def _refuse_for_memory(self) -> Outcome:
        if self._confirms is None:
            raise ConnectionFault(506, "the broker's queues are full; publish with confirms to be told per message")
        return Outcome.REJECTED
