"""One client connection: handshake, heartbeats, and its frames on their way to the channels.

In: bytes from the socket.  Out: frames to `Channel.on_frame`; whatever ends the connection frees all it held.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, cast

from pamqp import base, commands, constants

from callboard_runtime.embedded.amqp import handshake, wire
from callboard_runtime.embedded.amqp.channel import Channel
from callboard_runtime.embedded.amqp.errors import ChannelFault, ConnectionFault
from callboard_runtime.embedded.amqp.outbox import Outbox
from callboard_runtime.embedded.amqp.queue import Queue
from callboard_runtime.embedded.amqp.vhost import VirtualHost

if TYPE_CHECKING:
    from callboard_runtime.embedded.amqp.server import EmbeddedBroker

logger = logging.getLogger(__name__)

_CLOSE_TIMEOUT = 3.0  # seconds for the peer to answer connection.close
_MISSED_HEARTBEATS = 2  # intervals of silence after which a peer counts as dead

_Step = Callable[["Connection", base.Frame], None]


class Connection(asyncio.Protocol):
    """Every fault on the wire ends this connection, or one of its channels, and nothing else."""

    vhost: VirtualHost

    def __init__(self, broker: "EmbeddedBroker") -> None:
        self.limits = broker.limits
        self.gauge = broker.gauge
        self.reply_channels = broker.reply_channels
        self.frame_max = broker.limits.frame_max
        self.wants_cancel_notify = False
        self._broker = broker
        self._channels: dict[int, Channel] = {}
        self._unconfirmed: dict[Channel, None] = {}
        self._greeting = b""
        self._decoder = wire.FrameDecoder(broker.limits.frame_max)
        self._step: _Step = _on_start_ok
        self._channel_max = broker.limits.channel_max
        self._opened = False
        self._closing = False
        self._heard_at = 0.0
        self._deadline: asyncio.TimerHandle | None = None
        self._heartbeat: asyncio.TimerHandle | None = None

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the methods of asyncio.Transport, but are no subclass of it.
        self._transport = socket = cast("asyncio.Transport", transport)
        self._loop = asyncio.get_running_loop()
        self._outbox = Outbox(
            socket,
            high_water=self.limits.write_high_water,
            hard_limit=self.limits.write_hard_limit,
            before_flush=self._flush_confirms,
            on_room=self._deliver_again,
        )
        self._heard_at = self._loop.time()
        self._deadline = self._loop.call_later(self.limits.handshake_timeout, socket.abort)
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self._broker.connections.add(self)

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        try:
            self._receive(data)
        except ConnectionFault as fault:
            self._fail(fault, 0, 0)
        except Exception:
            logger.exception("broker error", extra={"action": "amqp_internal_error"})
            self._fail(ConnectionFault(541, "the broker failed on this frame"), 0, 0)

    def pause_writing(self) -> None:
        self._outbox.transport_full()

    def resume_writing(self) -> None:
        self._outbox.transport_drained()

    def connection_lost(self, exc: Exception | None) -> None:
        self._broker.connections.discard(self)
        for timer in (self._deadline, self._heartbeat):
            if timer is not None:
                timer.cancel()
        self._closing = True
        self._release()
        self.lost.set_result(None)

    # For channels

    @property
    def writable(self) -> bool:
        return self._outbox.writable

    def send(self, data: bytes) -> None:
        self._outbox.send(data)

    def confirm_later(self, channel: Channel) -> None:
        """Acknowledge the channel's publishes once per loop iteration instead of one by one."""
        self._unconfirmed[channel] = None
        self._outbox.schedule()

    # Ending

    def close(self, code: int, reason: str) -> None:
        """Tell the peer why, then hang up; what the connection held is free at once."""
        self._fail(ConnectionFault(code, reason), 0, 0)

    def abort(self) -> None:
        self._transport.abort()

    def _fail(self, fault: ConnectionFault, class_id: int, method_id: int) -> None:
        if self._closing:
            return
        logger.warning("connection closed: %s", fault.text, extra={"action": "amqp_connection_failed"})
        self._closing = True
        self._release()
        self._send_method(commands.Connection.Close(fault.code, fault.text, class_id, method_id))
        self._outbox.flush()
        self._restart_deadline(_CLOSE_TIMEOUT)

    def _release(self) -> None:
        """Everything goes back to its queue before any of it is delivered again, so that order survives."""
        queues: dict[Queue, bool] = {}
        channels = list(self._channels.values())
        self._channels.clear()
        for channel in channels:
            for queue, consumer_left in channel.detach().items():
                queues[queue] = queues.get(queue, False) or consumer_left
        if self._opened:
            for queue in [queue for queue in self.vhost.queues.values() if queue.owner is self]:
                self.vhost.delete_queue(queue)
        if channels:
            channels[0].reattend(queues)

    def _hang_up(self) -> None:
        self._restart_deadline(_CLOSE_TIMEOUT)
        self._outbox.flush()
        self._transport.close()

    # Receiving

    def _receive(self, data: bytes) -> None:
        if len(self._greeting) < len(wire.PROTOCOL_HEADER):
            data = self._greet(data)
        for frame in self._decoder.feed(data):
            self._on_frame(frame)

    def _greet(self, data: bytes) -> bytes:
        missing = len(wire.PROTOCOL_HEADER) - len(self._greeting)
        self._greeting += data[:missing]
        if not wire.PROTOCOL_HEADER.startswith(self._greeting):
            self.send(wire.PROTOCOL_HEADER)
            self._hang_up()
            self._closing = True
            return b""
        if self._greeting == wire.PROTOCOL_HEADER:
            self._send_method(handshake.start())
        return data[missing:]

    def _on_frame(self, frame: wire.RawFrame) -> None:
        if frame.kind == constants.FRAME_HEARTBEAT:
            return
        if frame.channel == 0 or not self._opened:
            self._on_connection_frame(frame)
        elif not self._closing:
            self._on_channel_frame(frame)

    def _on_connection_frame(self, frame: wire.RawFrame) -> None:
        if frame.channel != 0 or frame.kind != constants.FRAME_METHOD:
            if self._closing:
                return
            raise ConnectionFault(501, "only connection methods are allowed here")
        method = wire.decode_method(frame.payload)
        if isinstance(method, commands.Connection.CloseOk):
            self._transport.close()
        elif isinstance(method, commands.Connection.Close):
            self._on_close()
        elif not self._closing:
            self._step(self, method)

    def _on_close(self) -> None:
        self._closing = True
        self._flush_confirms()
        self._release()
        self._send_method(commands.Connection.CloseOk())
        self._hang_up()

    def _on_channel_frame(self, frame: wire.RawFrame) -> None:
        channel = self._channels.get(frame.channel)
        if channel is None:
            self._open_channel(frame)
        elif channel.closing or _is_close(frame):
            self._on_channel_close(channel, frame)
        else:
            self._run_channel(channel, frame)

    def _run_channel(self, channel: Channel, frame: wire.RawFrame) -> None:
        try:
            channel.on_frame(frame)
        except ChannelFault as fault:
            self._fail_channel(channel, fault, *_method_ids(frame))
        except ConnectionFault as fault:
            self._fail(fault, *_method_ids(frame))

    def _fail_channel(self, channel: Channel, fault: ChannelFault, class_id: int, method_id: int) -> None:
        logger.info("channel closed: %s", fault.text, extra={"action": "amqp_channel_failed"})
        channel.closing = True
        channel.publisher.flush_confirms()
        channel.release()
        channel.send(commands.Channel.Close(fault.code, fault.text, class_id, method_id))

    def _open_channel(self, frame: wire.RawFrame) -> None:
        method = wire.decode_method(frame.payload) if frame.kind == constants.FRAME_METHOD else None
        if isinstance(method, commands.Channel.CloseOk | commands.Channel.Close):
            return
        if not isinstance(method, commands.Channel.Open):
            raise ConnectionFault(504, f"channel {frame.channel} is not open")
        if frame.channel > self._channel_max:
            raise ConnectionFault(504, f"channel {frame.channel} is above channel_max {self._channel_max}")
        channel = self._channels[frame.channel] = Channel(self, frame.channel)
        channel.send(commands.Channel.OpenOk())

    def _on_channel_close(self, channel: Channel, frame: wire.RawFrame) -> None:
        index = wire.method_index(frame.payload) if frame.kind == constants.FRAME_METHOD else 0
        if index == commands.Channel.Close.index:
            channel.publisher.flush_confirms()
            channel.release()
            channel.send(commands.Channel.CloseOk())
        if index in (commands.Channel.Close.index, commands.Channel.CloseOk.index):
            del self._channels[channel.number]

    # Sending

    def _send_method(self, method: base.Frame) -> None:
        self._outbox.send(wire.encode_method(method, 0))

    def _flush_confirms(self) -> None:
        channels, self._unconfirmed = self._unconfirmed, {}
        for channel in channels:
            if not channel.closing:
                channel.publisher.flush_confirms()

    def _deliver_again(self) -> None:
        for channel in list(self._channels.values()):
            queues = {subscription.queue: None for subscription in channel.subscriptions.values()}
            channel.resume(queues)

    # Timers

    def _restart_deadline(self, seconds: float) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._loop.call_later(seconds, self._transport.abort)

    def start_heartbeats(self, interval: int) -> None:
        if interval:
            self._heartbeat = self._loop.call_later(interval / 2, self._beat, interval)

    def _beat(self, interval: int) -> None:
        silence = self._loop.time() - self._heard_at
        if silence > _MISSED_HEARTBEATS * interval:
            logger.warning("peer silent for %.0f s", silence, extra={"action": "amqp_heartbeat_missed"})
            self._transport.abort()
            return
        if not self._outbox.sent_since_check:
            self._outbox.send(wire.HEARTBEAT)
        self._outbox.sent_since_check = False
        self.start_heartbeats(interval)

    # Handshake steps, in their order

    def login(self, method: commands.Connection.StartOk) -> None:
        handshake.check_login(method, self._broker.credentials)
        self.wants_cancel_notify = handshake.capability(method, "consumer_cancel_notify")
        self._step = _on_tune_ok
        self._send_method(handshake.tune(self.limits))

    def tune(self, tuned: handshake.Tuned) -> None:
        self.frame_max = self._decoder.frame_max = tuned.frame_max
        self._channel_max = tuned.channel_max
        self._step = _on_open
        self.start_heartbeats(tuned.heartbeat)

    def open(self, vhost: str) -> None:
        self.vhost = self._broker.vhost(vhost)
        self._opened = True
        self._step = _on_open_method
        if self._deadline is not None:
            self._deadline.cancel()
        self._send_method(commands.Connection.OpenOk())

    def secret_updated(self) -> None:
        self._send_method(commands.Connection.UpdateSecretOk())


def _on_start_ok(connection: Connection, method: base.Frame) -> None:
    connection.login(handshake.expect(method, commands.Connection.StartOk))


def _on_tune_ok(connection: Connection, method: base.Frame) -> None:
    connection.tune(handshake.tuned(handshake.expect(method, commands.Connection.TuneOk), connection.limits))


def _on_open(connection: Connection, method: base.Frame) -> None:
    connection.open(handshake.expect(method, commands.Connection.Open).virtual_host)


def _on_open_method(connection: Connection, method: base.Frame) -> None:
    handshake.expect(method, commands.Connection.UpdateSecret)
    connection.secret_updated()


def _is_close(frame: wire.RawFrame) -> bool:
    return frame.kind == constants.FRAME_METHOD and wire.method_index(frame.payload) == commands.Channel.Close.index


def _method_ids(frame: wire.RawFrame) -> tuple[int, int]:
    """The method to blame in a close: the frame's own, or basic.publish for its content frames."""
    index = wire.method_index(frame.payload) if frame.kind == constants.FRAME_METHOD else wire.PUBLISH
    return index >> 16, index & 0xFFFF
