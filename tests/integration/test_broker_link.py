"""A broker link that is closed ends, whatever happens to its connection in that very moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

import pytest
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel

from callboard_runtime.broker.connection import BrokerLink, Line, open_channel
from waiting import until


def breaks(_: AbstractChannel) -> Line:
    raise ConnectionError("the connection was reset")


@pytest.mark.parametrize("ending", [breaks, Line], ids=["an-outage", "a-success"])
async def test_closing_ends_though_the_try_to_connect_ends_in_the_same_moment(
    embedded_amqp_url: str, ending: Callable[[AbstractChannel], Line]
) -> None:
    closing: list[asyncio.Task[None]] = []

    async def build(connection: AbstractConnection) -> Line:
        channel = await open_channel(connection, confirms=False)
        if not closing:
            closing.append(asyncio.create_task(link.close()))
            with contextlib.suppress(asyncio.CancelledError):  # as `wait_for` does when what it waits for is done
                await asyncio.sleep(0)
        return ending(channel)

    link = BrokerLink(embedded_amqp_url, "test", build)
    starting = asyncio.create_task(link.start(1))
    await until(lambda: closing, "the first try to connect")
    done, _ = await asyncio.wait(closing, timeout=5)
    assert done
    assert link.current is None
    await starting
