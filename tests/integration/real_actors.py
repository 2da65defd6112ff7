"""A real actor process in a test's own loop; the workers behind it are played by hand."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from callboard_actors.wiring import actor_process
from callboard_runtime.settings import ActorSettings, LlmSettings, Settings


def with_actors(settings: Settings) -> Settings:
    """The same for a front and actors alike: runs are accepted without a provider, and partitions are taken at once."""
    return settings.model_copy(
        update={"llm": LlmSettings(default_model="scripted"), "actors": ActorSettings(standby_delay=0)}
    )


@asynccontextmanager
async def running_actors(settings: Settings) -> AsyncIterator[None]:
    async with actor_process(settings) as process:
        duties = [asyncio.create_task(duty()) for duty in process.duties()]
        try:
            yield
        finally:
            for duty in duties:
                duty.cancel()
            await asyncio.gather(*duties, return_exceptions=True)
