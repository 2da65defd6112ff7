"""What a worker process is told while it works: for now, that a run is to be cancelled.

In:  a control message for this process
Out: a call of `cancel`
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal, Self
from uuid import UUID

from aio_pika.abc import AbstractConnection, AbstractIncomingMessage
from pydantic import ValidationError

from callboard_runtime.broker.connection import BrokerLink, Line
from callboard_runtime.broker.topology_setup import declare_control_queue, declare_exchanges
from callboard_runtime.domain.state_snapshot import Frozen

logger = logging.getLogger(__name__)

Cancel = Callable[[UUID, int], None]


class ControlMessage(Frozen):
    """The holder of `epoch` is to stop this run."""

    type: Literal["cancel"]
    run_id: UUID
    epoch: int


class ControlConsumer:
    """Consumes the process's own queue; the queue goes with the connection, and comes back with the next one."""

    def __init__(self, amqp_url: str, process: str, cancel: Cancel) -> None:
        async def build(connection: AbstractConnection) -> Line:
            return await _consume(connection, process, cancel)

        self._link = BrokerLink(amqp_url, f"{process}-control", build)

    @classmethod
    async def connect(cls, amqp_url: str, process: str, cancel: Cancel, *, wait: float = 5.0) -> Self:
        """Returns when connected, after `wait` seconds in any case. `cancel` is called with run id and epoch."""
        consumer = cls(amqp_url, process, cancel)
        await consumer._link.start(wait)
        return consumer

    @property
    def connected(self) -> bool:
        return self._link.current is not None

    async def close(self) -> None:
        await self._link.close()


async def _consume(connection: AbstractConnection, process: str, cancel: Cancel) -> Line:
    channel = await connection.channel()
    await declare_exchanges(channel)
    queue = await declare_control_queue(channel, process)

    async def on_message(message: AbstractIncomingMessage) -> None:
        _obey(message.body, cancel)

    await queue.consume(on_message, no_ack=True)
    return Line(await channel.get_underlay_channel())


def _obey(body: bytes, cancel: Cancel) -> None:
    try:
        message = ControlMessage.model_validate_json(body)
    except ValidationError:
        logger.warning("an unreadable control message was ignored", extra={"action": "control_ignored"})
        return
    cancel(message.run_id, message.epoch)
