"""The dead-letter queue: read without losing anything, sent again, deleted.

A message is taken on loan and goes back when the channel closes, unless it was settled. Whoever looks at the same time
sees only what nobody else has on loan.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self, cast

import aiormq.abc
import orjson
from aio_pika.abc import AbstractConnection
from aio_pika.exceptions import ChannelNotFoundEntity
from aiormq import spec

from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import Line, open_channel
from callboard_runtime.domain.ids import utcnow
from callboard_runtime.errors import InvalidInput

CONFIRM_TIMEOUT = 10.0  # seconds
SECRET = frozenset({"authorization"})
_BROKERS_OWN = ("x-death", "x-first-death-", "x-last-death-", "x-delivery-count", "x-acquired-count")
_OURS = (topology.H_DEAD_REASON, topology.H_DEAD_QUEUE, topology.H_DEAD_EXCHANGE, topology.H_DEAD_KEY)

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message on loan, and what its headers say of its death."""

    body: bytes
    properties: spec.Basic.Properties
    tag: int

    @property
    def id(self) -> str:
        """The same for every look at the message; copies of one message share it."""
        what = [self.body, self.queue.encode(), str(self.died_at).encode(), str(self.properties.message_id).encode()]
        return f"d{hashlib.sha256(b'|'.join(what)).hexdigest()[:9]}"

    @property
    def headers(self) -> Mapping[str, Any]:
        return self.properties.headers or {}

    @property
    def reason(self) -> str:
        return str(self.headers.get(topology.H_DEAD_REASON) or self._death.get("reason") or "unknown")

    @property
    def queue(self) -> str:
        """The queue that it was taken from; empty if nothing says so."""
        return str(self.headers.get(topology.H_DEAD_QUEUE) or self._death.get("queue") or "")

    @property
    def deaths(self) -> int:
        count = self._death.get("count")
        return count if isinstance(count, int) else 1

    @property
    def died_at(self) -> datetime | None:
        at = self._death.get("time") or self.properties.timestamp
        return at.replace(tzinfo=at.tzinfo or UTC) if isinstance(at, datetime) else None

    @property
    def age(self) -> float | None:
        """Seconds since it died."""
        return max(0.0, (utcnow() - self.died_at).total_seconds()) if self.died_at else None

    @property
    def type(self) -> str:
        """The command, the task, or what the request asked for."""
        key = self.headers.get(topology.H_DEAD_KEY)
        return str(self.properties.message_type or self.headers.get("task") or key or self._asked() or "unknown")

    @property
    def session(self) -> str | None:
        """The session as the message names it: the internal id, or the client's threadId."""
        match self.content():
            case {"session_id": str(session)} | {"threadId": str(session)} | [[str(session), *_], *_]:
                return session
            case _:
                return None

    def content(self) -> Any:
        """The body as JSON, or as text."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return self.body.decode("utf-8", "replace")

    def shown_headers(self) -> Json:
        """The headers without tokens."""
        return {name: "(hidden)" if name.lower() in SECRET else value for name, value in self.headers.items()}

    def summary(self) -> Json:
        return {
            "id": self.id,
            "type": self.type,
            "session": self.session,
            "reason": self.reason,
            "queue": self.queue,
            "deaths": self.deaths,
            "bytes": len(self.body),
            "died_at": self.died_at.isoformat() if self.died_at else None,
            "age_seconds": round(self.age) if self.age is not None else None,
        }

    def fresh_headers(self) -> Json:
        """The headers that it was sent with."""
        return {
            name: value
            for name, value in self.headers.items()
            if not name.startswith(_BROKERS_OWN) and name not in _OURS
        }

    def _asked(self) -> str | None:
        keys: object = self._death.get("routing-keys")
        first = cast(list[object], keys)[0] if isinstance(keys, list) and keys else None
        return str(first) if first in topology.INGRESS_KEYS else None

    @property
    def _death(self) -> Mapping[str, Any]:
        """The newest entry of `x-death`."""
        deaths: object = self.headers.get("x-death")
        newest = cast(list[object], deaths)[0] if isinstance(deaths, list) and deaths else None
        return cast(Mapping[str, Any], newest) if isinstance(newest, dict) else {}


class DeadLetters:
    """The queue, over one channel; closing the connection gives back what was not settled."""

    def __init__(self, channel: aiormq.abc.AbstractChannel, connection: AbstractConnection) -> None:
        self._line, self._connection = Line(channel), connection
        self._loans = 0

    @classmethod
    async def open(cls, connection: AbstractConnection) -> Self:
        return cls(await open_channel(connection, confirms=True), connection)

    async def count(self) -> int:
        """How many lie there, those on loan here included."""
        return await self._ready() + self._loans

    async def read(self, limit: int | None = None) -> AsyncGenerator[DeadLetter]:
        """Those that lie there now, oldest first; what comes meanwhile is left for another time."""
        ready = await self._ready()
        for _ in range(ready if limit is None else min(limit, ready)):
            got = await self._line.channel.basic_get(topology.DEAD_QUEUE)
            if isinstance(got.delivery, spec.Basic.GetEmpty):
                return
            self._loans += 1
            yield DeadLetter(got.body, got.header.properties, got.delivery_tag or 0)

    async def replay(self, letter: DeadLetter) -> None:
        """Send a copy to the queue it came from, and delete it once that is confirmed.

        Raises InvalidInput when nothing says where it came from, DeliveryError when the queue is full or gone.
        """
        if not letter.queue:
            raise InvalidInput(f"dead letter {letter.id} does not say where it came from; look at it, then drop it")
        properties = copy.copy(letter.properties)
        properties.headers, properties.expiration = letter.fresh_headers(), None
        await self._line.publish("", letter.queue, letter.body, properties, mandatory=True, timeout=CONFIRM_TIMEOUT)
        await self.settle(letter)

    async def settle(self, letter: DeadLetter) -> None:
        """Delete it."""
        await self._line.channel.basic_ack(letter.tag)
        self._loans -= 1

    async def _ready(self) -> int:
        """Messages that nobody has on loan; 0 when no process has declared the queue yet."""
        channel = await open_channel(self._connection, confirms=False)
        try:
            declared = await channel.queue_declare(topology.DEAD_QUEUE, passive=True)
        except ChannelNotFoundEntity:
            return 0
        await channel.close()
        return declared.message_count or 0
