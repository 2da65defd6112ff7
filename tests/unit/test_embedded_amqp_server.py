"""The embedded broker against peers that misbehave: bad frames, sockets nobody reads, more than fits in memory."""

import asyncio
import logging
import struct
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika import Message
from aiormq.exceptions import ChannelPreconditionFailed, DeliveryError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pamqp import base, body, commands, frame, header

from callboard_runtime.embedded.amqp import EmbeddedBroker, Limits
from waiting import until

PATIENCE = 15.0  # seconds


class RawClient:
    """Speaks frames, and anything else."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, broker: EmbeddedBroker) -> "RawClient":
        return cls(*await asyncio.open_connection("127.0.0.1", broker.port))

    @classmethod
    async def log_in(cls, broker: EmbeddedBroker, *, frame_max: int = 131072, channel: bool = True) -> "RawClient":
        client = await cls.connect(broker)
        client.writer.write(b"AMQP\x00\x00\x09\x01")
        await client.expect(commands.Connection.Start)
        login = f"\x00{broker.credentials.user}\x00{broker.credentials.password}"
        client.send(commands.Connection.StartOk({}, "PLAIN", login, "en_US"), 0)
        await client.expect(commands.Connection.Tune)
        client.send(commands.Connection.TuneOk(2047, frame_max, 0), 0)
        client.send(commands.Connection.Open("/"), 0)
        await client.expect(commands.Connection.OpenOk)
        if channel:
            client.send(commands.Channel.Open())
            await client.expect(commands.Channel.OpenOk)
        return client

    def send(self, value: frame.FrameTypes, channel: int = 1) -> None:
        self.writer.write(frame.marshal(value, channel))

    async def read(self) -> tuple[int, object]:
        """The next frame, as its size on the wire and its value."""
        async with asyncio.timeout(PATIENCE):
            start = await self.reader.readexactly(7)
            size = struct.unpack(">BHI", start)[2]
            data = start + await self.reader.readexactly(size + 1)
        return len(data), frame.unmarshal(data)[2]

    async def expect(self, kind: type[base.Frame]) -> base.Frame:
        _, value = await self.read()
        assert isinstance(value, kind), value
        return value

    async def closed_with(self) -> int:
        """The reply code of the connection's end; the socket must end after the close-ok."""
        close = await self.expect(commands.Connection.Close)
        assert isinstance(close, commands.Connection.Close)
        self.send(commands.Connection.CloseOk(), 0)
        async with asyncio.timeout(PATIENCE):
            assert await self.reader.read() == b""
        self.writer.close()
        return close.reply_code or 0


@pytest.fixture
async def broker() -> AsyncIterator[EmbeddedBroker]:
    async with EmbeddedBroker() as broker:
        yield broker


async def test_another_protocol_gets_our_header_and_the_door(broker: EmbeddedBroker) -> None:
    client = await RawClient.connect(broker)
    client.writer.write(b"GET / HTTP/1.1\r\n\r\n")
    async with asyncio.timeout(PATIENCE):
        assert await client.reader.read() == b"AMQP\x00\x00\x09\x01"
    client.writer.close()


_HEADER_FRAME = frame.marshal(header.ContentHeader(body_size=1), 1)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x01\x00\x01\x00\x00\x00\x04\x00\x14\x00\x28\x00", 501),
        (b"\x07\x00\x01\x00\x00\x00\x00\xce", 501),
        (b"\x01\x00\x01\x7f\xff\xff\xff", 501),
        (frame.marshal(commands.Queue.Purge(queue="q"), 9), 504),
        (b"\x01\x00\x01\x00\x00\x00\x04\x00\x32\x00\x0a\xce", 502),
        (b"\x01\x00\x01\x00\x00\x00\x04\x00\x32\x00\xff\xce", 503),
        (_HEADER_FRAME, 505),
        (b"\x03\x00\x01\x00\x00\x00\x01x\xce", 505),
        (frame.marshal(commands.Tx.Select(), 1), 540),
        (frame.marshal(commands.Channel.Open(), 1), 504),
        (frame.marshal(commands.Basic.Publish(routing_key="q"), 1) + frame.marshal(commands.Basic.Qos(), 1), 505),
        (frame.marshal(commands.Basic.Publish(routing_key="q", immediate=True), 1), 540),
        (frame.marshal(commands.Exchange.Declare(exchange="e", exchange_type="odd"), 1), 503),
    ],
    ids=[
        "frame-end",
        "frame-type",
        "too-large",
        "unopened-channel",
        "undecodable",
        "unknown-method",
        "header-alone",
        "body-alone",
        "tx",
        "second-open",
        "method-inside-message",
        "immediate",
        "exchange-type",
    ],
)
async def test_a_bad_frame_closes_its_connection_with_the_right_code(
    broker: EmbeddedBroker, data: bytes, code: int
) -> None:
    healthy = await RawClient.log_in(broker)
    client = await RawClient.log_in(broker)
    client.writer.write(data)
    assert await client.closed_with() == code
    healthy.send(commands.Queue.Declare(queue="alive"))
    await healthy.expect(commands.Queue.DeclareOk)
    healthy.writer.close()


async def test_poisoned_headers_stop_at_the_publisher(broker: EmbeddedBroker) -> None:
    client = await RawClient.log_in(broker)
    client.send(commands.Basic.Publish(routing_key="q"))
    payload = struct.pack(">HHQ", 60, 0, 0) + b"\x20\x00" + struct.pack(">I", 3) + b"\x01k?"
    client.writer.write(struct.pack(">BHI", 2, 1, len(payload)) + payload + b"\xce")
    assert await client.closed_with() == 502


async def test_login_that_never_comes_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    async with EmbeddedBroker(limits=Limits(handshake_timeout=0.05)) as broker:
        client = await RawClient.connect(broker)
        async with asyncio.timeout(PATIENCE):
            assert await client.reader.read() == b""
        client.writer.close()
    assert broker.credentials.password not in caplog.text


async def test_bodies_are_split_to_the_negotiated_frame_size(broker: EmbeddedBroker) -> None:
    client = await RawClient.log_in(broker, frame_max=4096)
    client.send(commands.Queue.Declare(queue="q"))
    await client.expect(commands.Queue.DeclareOk)
    async with await aio_pika.connect(broker.url) as connection:
        channel = await connection.channel()
        await channel.default_exchange.publish(Message(bytes(10_000)), "q")
    client.send(commands.Basic.Get(queue="q", no_ack=True))
    await client.expect(commands.Basic.GetOk)
    await client.read()
    sizes = [(await client.read())[0] for _ in range(3)]
    assert sizes == [4096, 4096, 10_000 - 2 * (4096 - 8) + 8]
    client.writer.close()


async def test_too_large_message_closes_its_channel_only() -> None:
    async with (
        EmbeddedBroker(limits=Limits(max_message_bytes=1000)) as broker,
        await aio_pika.connect(broker.url) as connection,
    ):
        channel = await connection.channel()
        with pytest.raises(ChannelPreconditionFailed, match="larger than"):
            await channel.default_exchange.publish(Message(bytes(200_000)), "q")
        other = await connection.channel()
        await other.declare_queue("q")
        await other.default_exchange.publish(Message(bytes(1000 - 50)), "q")


async def test_memory_high_water_refuses_publishes_until_there_is_room(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        EmbeddedBroker(limits=Limits(memory_high_water=50_000)) as broker,
        await aio_pika.connect(broker.url) as connection,
    ):
        channel = await connection.channel()
        queue = await channel.declare_queue("q")
        outcomes = []
        with caplog.at_level(logging.WARNING):
            for _ in range(10):
                outcomes.append(await _accepted(channel, bytes(10_000)))
        assert outcomes == [True] * 4 + [False] * 6
        assert [record.action for record in caplog.records if hasattr(record, "action")] == ["amqp_memory_high"]
        assert broker.gauge.held <= 50_000
        await queue.purge()
        assert broker.gauge.held == 0
        assert await _accepted(channel, bytes(10_000))


async def test_memory_high_water_tells_unconfirmed_publishers_too(broker: EmbeddedBroker) -> None:
    broker.gauge.limit = 10
    client = await RawClient.log_in(broker)
    client.send(commands.Basic.Publish(routing_key="q"))
    client.send(header.ContentHeader(body_size=11))
    client.writer.write(b"\x03\x00\x01\x00\x00\x00\x0b" + bytes(11) + b"\xce")
    assert await client.closed_with() == 506


async def test_consumer_that_does_not_read_leaves_the_queue_to_drop_its_head() -> None:
    """No acknowledgements hold anything back here: only the socket does."""
    limits = Limits(write_high_water=256 * 1024)
    async with EmbeddedBroker(limits=limits) as broker, await aio_pika.connect(broker.url) as connection:
        stalled = await RawClient.log_in(broker)
        stalled.send(commands.Queue.Declare(queue="fan", arguments={"x-max-length": 10}))
        await stalled.expect(commands.Queue.DeclareOk)
        stalled.send(commands.Basic.Consume(queue="fan", no_ack=True))
        await stalled.expect(commands.Basic.ConsumeOk)
        stalled.writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue] - a socket's transport

        channel = await connection.channel()
        content = bytes(64 * 1024)
        for number in range(600):
            await channel.default_exchange.publish(Message(content, message_id=str(number)), "fan")
        assert broker.gauge.held <= 11 * (len(content) + 200)
        state = await channel.declare_queue("fan", passive=True)
        assert state.declaration_result.message_count == 10

        stalled.writer.transport.resume_reading()  # pyright: ignore[reportAttributeAccessIssue] - a socket's transport
        seen: list[int] = []
        while not seen or seen[-1] != 599:
            _, value = await stalled.read()
            if isinstance(value, header.ContentHeader):
                seen.append(int(value.properties.message_id or ""))
        assert seen == sorted(seen)
        assert seen[-10:] == list(range(590, 600))
        assert len(seen) < 600
        stalled.writer.close()


async def test_peer_that_asks_without_reading_is_not_heard_for_ever() -> None:
    limits = Limits(write_high_water=64 * 1024, write_hard_limit=256 * 1024)
    async with EmbeddedBroker(limits=limits) as broker:
        client = await RawClient.log_in(broker)
        client.writer.transport.pause_reading()  # pyright: ignore[reportAttributeAccessIssue] - a socket's transport
        question = frame.marshal(commands.Queue.Declare(queue="q" * 200), 1)

        async def ask() -> None:
            for _ in range(20_000):
                client.writer.write(question * 10)
                await client.writer.drain()

        asking = asyncio.create_task(ask())
        server_side = next(iter(broker.connections))._transport
        await until(lambda: not server_side.is_reading())
        assert server_side.get_write_buffer_size() < 8 * 1024 * 1024
        asking.cancel()
        client.writer.transport.abort()


async def test_virtual_hosts_are_isolated(broker: EmbeddedBroker) -> None:
    async with await aio_pika.connect(f"{broker.url}one") as one, await aio_pika.connect(f"{broker.url}two") as two:
        first, second = await one.channel(), await two.channel()
        queue = await first.declare_queue("q")
        await second.declare_queue("q", durable=True)
        await second.default_exchange.publish(Message(b"theirs"), "q")
        assert await queue.get(fail=False) is None


async def test_stop_tells_clients_and_forgets_everything() -> None:
    broker = EmbeddedBroker()
    await broker.start()
    client = await RawClient.log_in(broker)
    client.send(commands.Queue.Declare(queue="kept", durable=True))
    await client.expect(commands.Queue.DeclareOk)
    stopping = asyncio.create_task(broker.stop())
    assert await client.closed_with() == 320
    await stopping
    assert not broker.connections
    with pytest.raises(RuntimeError, match="not running"):
        _ = broker.port
    await broker.start()
    again = await RawClient.log_in(broker)
    again.send(commands.Queue.Declare(queue="kept", passive=True))
    await again.expect(commands.Channel.Close)
    again.writer.close()
    await broker.stop()


async def test_robust_clients_come_back_after_a_restart(broker: EmbeddedBroker) -> None:
    port = broker.port
    async with await aio_pika.connect_robust(f"{broker.url}?reconnect_interval=0.05") as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue("commands", durable=True)
        arrived = asyncio.Event()

        async def take(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            await message.ack()
            arrived.set()

        await queue.consume(take)
        connection.reconnect_callbacks.add(lambda *_: came_back.set())
        came_back = asyncio.Event()
        await broker.stop()
        await broker.start(port=port)
        async with asyncio.timeout(PATIENCE):
            await came_back.wait()
            await channel.default_exchange.publish(Message(b"after"), "commands")
            await arrived.wait()


_FRAMES = [
    frame.marshal(value, 1)
    for value in (
        commands.Queue.Declare(queue="q", arguments={"x-max-length": 5, "x-queue-type": "classic"}),
        commands.Exchange.Declare(exchange="e", exchange_type="topic", arguments={"alternate-exchange": "amq.fanout"}),
        commands.Queue.Bind(queue="q", exchange="e", routing_key="a.#", arguments={"x-match": "any"}),
        commands.Basic.Consume(queue="q", consumer_tag="t", arguments={"x-priority": 3}),
        commands.Basic.Publish(exchange="e", routing_key="a.b", mandatory=True),
        header.ContentHeader(body_size=2, properties=commands.Basic.Properties(headers={"a": 1}, expiration="5")),
        body.ContentBody(b"ab"),
        commands.Basic.Get(queue="q"),
        commands.Basic.Ack(1, multiple=True),
        commands.Basic.Nack(1),
        commands.Basic.Qos(prefetch_count=2, global_=True),
        commands.Confirm.Select(),
    )
]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    before=st.lists(st.sampled_from(_FRAMES), max_size=6),
    damaged=st.sampled_from(_FRAMES),
    at=st.integers(0, 200),
    value=st.integers(0, 255),
)
async def test_a_damaged_frame_is_never_the_brokers_own_error(
    before: list[bytes], damaged: bytes, at: int, value: int, caplog: pytest.LogCaptureFixture
) -> None:
    """One octet of one frame is wrong: the peer may be told off, the broker must not stumble, nor stop for others."""
    caplog.clear()
    broken = bytearray(damaged)
    broken[7 + at % (len(damaged) - 8)] = value
    async with EmbeddedBroker() as broker:
        client = await RawClient.log_in(broker)
        client.writer.write(b"".join(before) + bytes(broken))
        client.send(commands.Connection.Close(200, "", 0, 0), 0)
        async with asyncio.timeout(PATIENCE):
            await client.reader.read()
        client.writer.close()
        other = await RawClient.log_in(broker)
        other.send(commands.Queue.Declare(queue="alive"))
        await other.expect(commands.Queue.DeclareOk)
        other.writer.close()
    assert "amqp_internal_error" not in [getattr(record, "action", "") for record in caplog.records]


async def test_start_twice_is_an_error(broker: EmbeddedBroker) -> None:
    with pytest.raises(RuntimeError, match="already running"):
        await broker.start()


async def test_credentials_are_not_shown(broker: EmbeddedBroker) -> None:
    assert broker.credentials.password not in repr(broker.credentials)


async def _accepted(channel: aio_pika.abc.AbstractChannel, content: bytes) -> bool:
    try:
        await channel.default_exchange.publish(Message(content), "q")
    except DeliveryError:
        return False
    return True
