"""Live batches to the fronts, over the lane of their session: at most once, the log makes up for what is lost.

In:  an EventBatch and the id of the event before it
Out: one transient message on the lane exchange
"""

from __future__ import annotations

from typing import Self
from uuid import UUID

from aio_pika import ExchangeType
from aio_pika.abc import AbstractConnection

from callboard_runtime.broker import topology
from callboard_runtime.broker.connection import BrokerLink, ConnectionGone, Line, open_channel
from callboard_runtime.broker.frames import Header
from callboard_runtime.domain.event_batch import ORIGIN, EventBatch, EventId
from callboard_runtime.observe import tracing
from callboard_runtime.observe.metrics import LANE_DROPPED

WRITE_TIMEOUT = 1.0  # seconds; a broker that reads no faster must not hold a run

NO_RUN = UUID(int=0)


class LanePublisher:
    """Publishes to lanes; never raises and never waits long: while the broker is away, batches are dropped."""

    def __init__(self, amqp_url: str, name: str) -> None:
        self._link = BrokerLink(amqp_url, name, _open_line)
        self.dropped = 0  # messages since the start

    @classmethod
    async def connect(cls, amqp_url: str, name: str, *, wait: float = 5.0) -> Self:
        """A publisher that connects, and connects again, by itself; returns after `wait` seconds in any case."""
        publisher = cls(amqp_url, name)
        await publisher._link.start(wait)
        return publisher

    @property
    def connected(self) -> bool:
        return self._link.current is not None

    async def publish(
        self,
        session_id: UUID,
        run_id: UUID,
        leg: int,
        batch: EventBatch,
        previous: EventId,
        closing: bool = False,
    ) -> None:
        """Send a batch; `previous` is the id of the event before its first, `closing`: its last one ends the leg."""
        headers: dict[str, Header] = {
            topology.H_SESSION: str(session_id),
            topology.H_RUN: str(run_id),
            topology.H_LEG: leg,
            topology.H_EPOCH: batch.epoch,
            topology.H_FIRST: batch.first_seq,
            topology.H_PREVIOUS: str(previous),
            topology.H_CLOSING: closing,
        }
        if tracing.current is not None and (trace := tracing.traceparent()):
            headers[topology.H_TRACE] = trace
        await self._send(session_id, headers, "\n".join(batch.lines).encode())

    async def poke(self, session_id: UUID, run_id: UUID = NO_RUN) -> None:
        """Tell the session's readers to look at the log."""
        headers: dict[str, Header] = {
            topology.H_SESSION: str(session_id),
            topology.H_RUN: str(run_id),
            topology.H_LEG: 0,
            topology.H_EPOCH: 0,
            topology.H_FIRST: 0,
            topology.H_PREVIOUS: str(ORIGIN),
            topology.H_CLOSING: False,
        }
        await self._send(session_id, headers, b"")

    async def close(self) -> None:
        await self._link.close()

    async def _send(self, session_id: UUID, headers: dict[str, Header], body: bytes) -> None:
        line = self._link.current
        if line is None:
            self._drop()
            return
        key = topology.lane_key(session_id)
        try:
            await line.publish_transient(topology.LANE_EXCHANGE, key, headers, body, timeout=WRITE_TIMEOUT)
        except (ConnectionGone, TimeoutError):
            self._drop()

    def _drop(self) -> None:
        self.dropped += 1
        LANE_DROPPED.inc()


async def _open_line(connection: AbstractConnection) -> Line:
    channel = await open_channel(connection, confirms=False)
    await channel.exchange_declare(
        exchange=topology.LANE_EXCHANGE, exchange_type=ExchangeType.DIRECT.value, durable=True
    )
    return Line(channel)
