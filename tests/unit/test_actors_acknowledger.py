"""Acknowledgements of one channel: each message once, as few frames as possible, nothing behind an open one in bulk."""

from __future__ import annotations

import asyncio
from typing import Any

from aio_pika.exceptions import ChannelInvalidStateError
from hypothesis import given
from hypothesis import strategies as st

from callboard_actors.consumer import Acknowledger


class Wire:
    """What a channel is told, and what the broker makes of it."""

    def __init__(self, tags: int) -> None:
        self.open = set(range(1, tags + 1))
        self.frames = 0
        self.returned: list[int] = []
        self.closed = False

    async def basic_ack(self, tag: int, multiple: bool = False, wait: bool = True) -> None:
        self._check()
        acked = {other for other in self.open if other == tag or (multiple and other < tag)}
        assert tag in acked, f"{tag} was settled before"
        self.open -= acked

    async def basic_nack(self, tag: int, *, requeue: bool, wait: bool = True) -> None:
        self._check()
        assert tag in self.open
        self.open.discard(tag)
        self.returned.append(tag)

    def _check(self) -> None:
        if self.closed:
            raise ChannelInvalidStateError("closed")
        self.frames += 1


def acknowledger(tags: int) -> tuple[Acknowledger, Wire]:
    wire: Any = Wire(tags)
    acks = Acknowledger(wire)
    for tag in range(1, tags + 1):
        acks.delivered(tag)
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
    await acks.reject(2, requeue=False)
    for tag in (1, 2, 3, 4):
        acks.ack(tag)
    await acks.flushed()
    assert (wire.open, wire.returned, wire.frames) == (set(), [2], 2)


async def test_a_closed_channel_is_nobodys_error() -> None:
    acks, wire = acknowledger(2)
    wire.closed = True
    acks.ack(1)
    await acks.reject(2, requeue=True)
    await acks.flushed()
    assert wire.open == {1, 2}


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
