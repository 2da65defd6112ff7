"""One partition in one process: a take that is given up ends, whatever it raises, and the next one gets its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from callboard_actors.ownership import PartitionOwner
from callboard_actors.settle import Envelope
from callboard_runtime.errors import Unavailable
from waiting import until


class Unsettled:
    """A delivery that nobody settles."""

    def ack(self) -> None: ...
    def reject(self) -> None: ...


class Kept:
    """Mailboxes that keep what they get."""

    def __init__(self, epoch: int) -> None:
        self.epoch, self.bodies, self.closed = epoch, list[bytes](), False
        self.lost = asyncio.Event()

    @property
    def waiting(self) -> int:
        return len(self.bodies)

    def put(self, envelope: Envelope) -> None:
        self.bodies.append(envelope.body)

    async def close(self) -> None:
        self.closed = True


class Database:
    """Takes that hang until they are cancelled, and then end as `ending` says; after `well` they succeed at once."""

    def __init__(self, ending: Callable[[], int]) -> None:
        self.asked, self.hangs, self._ending = 0, True, ending

    def well(self) -> None:
        self.hangs = False

    async def take(self, partition: int) -> int:
        self.asked += 1
        if not self.hangs:
            return self.asked
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return self._ending()
        raise AssertionError("nothing sets the event")


def outage() -> int:
    raise Unavailable("the database is away")


def mishap() -> int:
    raise RuntimeError("the connection was closed under a statement")


def committed() -> int:
    return 1


@pytest.mark.parametrize("ending", [outage, mishap, committed])
async def test_a_take_that_hides_its_cancellation_does_not_keep_the_next_channel_waiting(
    ending: Callable[[], int],
) -> None:
    """The channel closes while the database is asked, and the answer comes in place of the cancellation."""
    database, made = Database(ending), list[Kept]()

    def make(_: int, epoch: int) -> Kept:
        made.append(Kept(epoch))
        return made[-1]

    owner = PartitionOwner(5, database.take, make, lambda: None)
    owner.deliver(Envelope(b"first", None, None, Unsettled()), "channel 1")
    await until(lambda: database.asked == 1, "the first take")
    owner.drop()
    database.well()
    owner.deliver(Envelope(b"again", None, None, Unsettled()), "channel 2")
    await until(lambda: owner.waiting and made and made[-1].bodies, "mailboxes of the second channel", timeout=5)
    assert [(mailboxes.epoch, mailboxes.bodies) for mailboxes in made] == [(2, [b"again"])]
    async with asyncio.timeout(5):
        await owner.close()
    assert made[0].closed
