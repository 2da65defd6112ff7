"""An actor process that is told to end while a service is still away ends, whatever the try under way raises."""

import asyncio

import pytest

from callboard_actors.wiring import _until_there
from callboard_runtime.errors import Unavailable


async def test_a_start_that_is_given_up_ends_though_an_outage_hides_it() -> None:
    trying = asyncio.Event()

    async def attempt() -> None:
        trying.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise Unavailable("the database is away") from None

    waiting = asyncio.create_task(_until_there("the database", attempt))
    await trying.wait()
    waiting.cancel()
    async with asyncio.timeout(15):
        with pytest.raises(asyncio.CancelledError):
            await waiting
