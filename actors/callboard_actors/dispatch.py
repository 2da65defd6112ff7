"""Wake-ups for workers: no more than they can take, in turns by user, sent again for as long as nobody claims them.

In: wake-ups that were committed, and how many runs the workers can still take. Out: Celery messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from math import ceil
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.errors import CallboardError
from callboard_runtime.persistence.database import connect

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wakeup:
    """A run's leg that waits for a worker; `id` is its outbox row."""

    id: UUID
    user_id: str
    session_id: UUID
    run_id: UUID
    leg: int
    trace: str | None = None  # what asked for the leg, if it is traced


class FairQueue:
    """Wake-ups in turns by user, each user's in the order of arrival; one that is there already is not added again."""

    def __init__(self) -> None:
        self._users: OrderedDict[str, dict[UUID, Wakeup]] = OrderedDict()
        self._owner: dict[UUID, str] = {}

    def __len__(self) -> int:
        return len(self._owner)

    @property
    def ids(self) -> list[UUID]:
        return list(self._owner)

    def push(self, wakeup: Wakeup) -> None:
        if wakeup.id not in self._owner:
            self._owner[wakeup.id] = wakeup.user_id
            self._users.setdefault(wakeup.user_id, {})[wakeup.id] = wakeup

    def pop(self) -> Wakeup:
        """The next user's oldest; raises IndexError when empty."""
        if not self._users:
            raise IndexError("no wake-up waits")
        user, waiting = next(iter(self._users.items()))
        wakeup = waiting[next(iter(waiting))]
        self.discard(wakeup.id)
        if user in self._users:
            self._users.move_to_end(user)
        return wakeup

    def discard(self, wakeup_id: UUID) -> None:
        user = self._owner.pop(wakeup_id, None)
        if user is not None:
            del self._users[user][wakeup_id]
            if not self._users[user]:
                del self._users[user]


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the living workers can take, by the database.

    `total` runs at once, `open` attempts at work, `sent` wake-ups that nobody claimed yet; `actors` processes send.
    """

    total: int
    open: int
    sent: int
    actors: int

    def share(self, unnoted: int) -> int:
        """Slots that this process may fill; `unnoted` wake-ups are under way, or sent and not in `sent` yet."""
        free = max(0, self.total - self.open - self.sent)
        return ceil(free / max(1, self.actors)) - unnoted


# An attempt counts as long as its process lists it, or could not list it yet: a row left open must not hold a slot.
_CAPACITY = text("""
WITH alive AS (
  SELECT id, kind, slots, attempts, beat_at FROM processes
  WHERE kind IN ('worker', 'actors') AND beat_at > now() - make_interval(secs => :silent_after)
)
SELECT
  (SELECT coalesce(sum(slots + jsonb_array_length(attempts)), 0) FROM alive WHERE kind = 'worker')::int AS total,
  (SELECT count(*) FROM runs r
     JOIN run_attempts a ON a.run_id = r.id AND a.ended_at IS NULL
     JOIN alive p ON p.id = a.process
     WHERE r.status IN ('running', 'cancelling')
       AND (p.attempts @> to_jsonb(a.attempt_id::text) OR a.started_at > p.beat_at))::int AS open,
  (SELECT count(*) FROM outbox WHERE kind = 'wakeup' AND sends > 0 AND due_at > now())::int AS sent,
  (SELECT count(*) FROM alive WHERE kind = 'actors')::int AS actors
""")


async def read_capacity(engine: AsyncEngine, silent_after: float) -> Capacity:
    """Look at the workers' heartbeats. Raises Unavailable while the database is away."""
    async with connect(engine) as connection:
        row = (await connection.execute(_CAPACITY, {"silent_after": silent_after})).one()
    return Capacity(total=row.total, open=row.open, sent=row.sent, actors=row.actors)


class Dispatcher:
    """Sends wake-ups as slots allow: at once while some are known to be free.

    `send` delivers one wake-up and raises CallboardError when the broker is away: sending then stops until `refresh`.
    """

    def __init__(self, send: Callable[[Wakeup], Awaitable[None]]) -> None:
        self.waiting = FairQueue()
        self._send = send
        self._free = 0
        self._broker_away = False
        self._unwritten: set[UUID] = set()
        self._sending: dict[asyncio.Task[None], UUID] = {}

    def offer(self, wakeups: Iterable[Wakeup]) -> None:
        """Take wake-ups over; those that were just sent and wait for their note in the database are sent once more."""
        for wakeup in wakeups:
            self.waiting.push(wakeup)
        self._pump()

    def released(self, slots: int) -> None:
        """Workers have finished so many runs."""
        self._free += slots
        self._pump()

    def refresh(self, capacity: Capacity) -> None:
        """Replace what is believed of the workers by what the database says."""
        self._free = capacity.share(len(self.unnoted))
        self._broker_away = False
        self._pump()

    @property
    def unnoted(self) -> set[UUID]:
        """What is under way, or was sent without a note in the database so far; a broker may confirm late."""
        return self._unwritten.union(self._sending.values())

    def take_unwritten(self) -> list[UUID]:
        """What was sent since the last call, to be noted in the database."""
        sent, self._unwritten = list(self._unwritten), set()
        return sent

    def give_back(self, ids: Iterable[UUID]) -> None:
        """The note could not be written: it is to be tried again."""
        self._unwritten |= set(ids)

    async def settle(self) -> None:
        """Wait for the messages under way."""
        while self._sending:
            await asyncio.wait(self._sending)

    def _pump(self) -> None:
        while self._free > 0 and self.waiting and not self._broker_away:
            self._free -= 1
            wakeup = self.waiting.pop()
            task = asyncio.create_task(self._deliver(wakeup))
            self._sending[task] = wakeup.id
            task.add_done_callback(self._sending.pop)

    async def _deliver(self, wakeup: Wakeup) -> None:
        try:
            await self._send(wakeup)
        except CallboardError as error:
            logger.info("wake-ups wait: %s", error, extra={"action": "wakeups_wait"})
            self._broker_away = True
            self.waiting.push(wakeup)
        else:
            self._unwritten.add(wakeup.id)
