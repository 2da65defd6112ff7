"""Commands too large for a message: what stands for them is sent within the time of one command."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.broker.large_commands import send_any_size
from callboard_runtime.domain.commands import MAX_COMMAND_BYTES, ClaimCheck, DoneAnswer, Reply
from callboard_runtime.domain.ids import partition_of, utcnow
from callboard_runtime.entry.run_command import RunCommand
from callboard_runtime.errors import Unavailable
from contracts.peers import PATIENCE, scripted_actor

LARGE = RunCommand(user_id="u", thread_id="t", run_id="r", message="x" * MAX_COMMAND_BYTES).accept(PATIENCE)
CLAIM = uuid.UUID(int=9)


@pytest.fixture
async def client(broker_url: str) -> AsyncIterator[CommandClient]:
    commands = await CommandClient.connect(broker_url, "test")
    yield commands
    await commands.close()


async def test_a_claim_has_the_time_that_keeping_left_of_the_commands_own(
    broker_url: str, client: CommandClient
) -> None:
    kept: list[datetime] = []

    async def keep(_: uuid.UUID, __: bytes) -> uuid.UUID:
        await asyncio.sleep(0.05)  # it takes its time, which the claim then lacks
        kept.append(utcnow())
        return CLAIM

    async def done(_: object) -> Reply:
        return Reply(answer=DoneAnswer())

    async with scripted_actor(broker_url, done, partition_of(LARGE.session_id)) as actor:
        assert await send_any_size(client, LARGE, PATIENCE, keep) == DoneAnswer()
    (claim,) = actor.commands
    assert isinstance(claim, ClaimCheck)
    assert claim.claim_id == CLAIM
    assert claim.not_after < kept[0] + timedelta(seconds=PATIENCE)


async def test_keeping_is_part_of_the_time(client: CommandClient) -> None:
    async def keep(_: uuid.UUID, __: bytes) -> uuid.UUID:
        await asyncio.Event().wait()
        raise AssertionError

    async with asyncio.timeout(PATIENCE):
        with pytest.raises(Unavailable, match="the database did not take the command in time"):
            await send_any_size(client, LARGE, 0.1, keep)
