"""Acknowledgements of one channel: each message once, as few frames as possible, nothing behind an open one in bulk."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import frame
from pamqp.commands import Basic

from callboard_actors.acks import AckLine, Acknowledger, write_while_open


class Wire:
    """A channel, and what the broker makes of the frames on it; `taking` is cleared while the socket takes nothing."""

    def __init__(self, tags: int, number: int = 1) -> None:
        self.number, self.is_closed = number, False
        self.open = set(range(1, tags + 1))
        self.frames = 0
        self.returned: list[int] = []

    def settle(self, told: Basic.Ack | Basic.Nack) -> None:
        tag = told.delivery_tag or 0
        settled = {other for other in self.open if other == tag or (told.multiple and other < tag)}
        assert tag in settled, f"{tag} was settled before"  # here the broker closes the channel
        self.open -= settled
        self.frames += 1
        if isinstance(told, Basic.Nack):
            assert not told.requeue, f"{tag} would come again"
            self.returned.append(tag)


class Socket:
    """Takes what is written, once `free`."""

    def __init__(self, *channels: Wire) -> None:
        self._channels = {channel.number: channel for channel in channels}
        self.free = asyncio.Event()
        self.free.set()
        self.writes = 0

    async def write(self, wire: bytes) -> None:
        await self.free.wait()
        self.writes += 1
        while wire:
            used, number, told = frame.unmarshal(wire)
            assert isinstance(told, Basic.Ack | Basic.Nack)
            self._channels[number].settle(told)
            wire = wire[used:]


def acknowledgers(*tags: int) -> tuple[list[Acknowledger], list[Wire], Socket]:
    """One channel for each number of deliveries, all on one connection."""
    wires = [Wire(count, number) for number, count in enumerate(tags, 1)]
    socket = Socket(*wires)
    line = AckLine(socket.write)
    found = [Acknowledger(wire, line) for wire in wires]
    for acks, count in zip(found, tags, strict=True):
        for tag in range(1, count + 1):
            acks.delivered(tag)
    return found, wires, socket


def acknowledger(tags: int) -> tuple[Acknowledger, Wire]:
    [acks], [wire], _ = acknowledgers(tags)
    return acks, wire


async def test_a_group_goes_in_one_frame() -> None:
    acks, wire = acknowledger(50)
    for tag in range(1, 51):
        acks.ack(tag)
    await acks.flushed()
    assert (wire.open, wire.frames) == (set(), 1)


async def test_what_is_behind_an_open_one_is_acknowledged_alone() -> None:
    acks, wire = acknowledger(6)
    for tag in (1, 2, 4, 6):
        acks.ack(tag)
    await acks.flushed()
    assert (wire.open, wire.frames) == ({3, 5}, 3)


async def test_a_rejected_one_is_not_acknowledged_and_does_not_stop_the_bulk() -> None:
    acks, wire = acknowledger(4)
    acks.reject(2)
    for tag in (1, 2, 3, 4):
        acks.ack(tag)
    await acks.flushed()
    assert (wire.open, wire.returned, wire.frames) == (set(), [2], 2)


async def test_a_closed_channel_is_nobodys_error() -> None:
    acks, wire = acknowledger(2)
    wire.is_closed = True
    acks.ack(1)
    acks.reject(2)
    await acks.flushed()
    assert wire.open == {1, 2}


async def test_the_channels_of_a_connection_share_a_write() -> None:
    found, wires, socket = acknowledgers(3, 3, 3)
    for acks in found:
        acks.ack(1)
        acks.ack(2)
    await found[0].flushed()
    assert ([wire.open for wire in wires], socket.writes) == ([{3}] * 3, 1)


async def test_nothing_overtakes_a_write_that_the_socket_has_not_taken() -> None:
    """A bulk in front of the single tag that it covers would settle that twice."""
    [acks], [wire], socket = acknowledgers(6)
    socket.free.clear()
    acks.ack(3)  # alone: 1 and 2 are open
    acks.reject(5)
    await asyncio.sleep(0)
    for tag in (1, 2, 4, 6):
        acks.ack(tag)
    await asyncio.sleep(0)
    socket.free.set()
    await acks.flushed()
    assert (wire.open, wire.returned) == (set(), [5])


async def test_a_connection_that_takes_nothing_costs_only_what_was_written_on_it() -> None:
    [acks], [wire], socket = acknowledgers(2)

    async def nothing(_: bytes) -> None:
        raise TimeoutError

    broken, line = Acknowledger(wire, AckLine(nothing)), socket
    broken.delivered(1)
    broken.ack(1)
    await broken.flushed()
    assert (wire.open, line.writes) == ({1, 2}, 0)
    acks.ack(1)
    await acks.flushed()
    assert wire.open == {2}


@given(st.data())
def test_exactly_the_settled_ones_are_settled(data: st.DataObject) -> None:
    tags = data.draw(st.integers(1, 20))
    rounds = data.draw(st.lists(st.lists(st.integers(1, tags), max_size=10), max_size=6))

    async def play() -> Wire:
        acks, wire = acknowledger(tags)
        for group in rounds:
            for tag in group:
                acks.ack(tag)
            await acks.flushed()
        return wire

    assert asyncio.run(play()).open == set(range(1, tags + 1)) - {tag for group in rounds for tag in group}


async def test_a_slow_socket_gets_them_all_the_same_and_a_closed_one_none() -> None:
    full: asyncio.Queue[Any] = asyncio.Queue(1)
    full.put_nowait("what was written before")
    connection: Any = SimpleNamespace(write_queue=full, is_closed=False)
    writing = asyncio.create_task(write_while_open(connection, b"acks", 0.001))
    for _ in range(10):
        await asyncio.wait([writing], timeout=0.002)
    assert full.get_nowait() == "what was written before"
    await writing
    assert full.get_nowait().payload == b"acks"
    full.put_nowait("nobody takes this")
    connection.is_closed = True
    with pytest.raises(TimeoutError):
        await write_while_open(connection, b"acks", 0.001)
