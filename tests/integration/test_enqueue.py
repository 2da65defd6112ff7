"""Runs that Python code enqueues, however large they are."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr

from callboard_runtime.domain.commands import MAX_CLAIM_BYTES, MAX_COMMAND_BYTES
from callboard_runtime.entry.client import BlockingClient
from callboard_runtime.entry.run_command import RunCommand
from callboard_runtime.errors import RunIdConflict, TooLarge
from callboard_runtime.settings import Settings
from front_client import FrontClient, fresh
from promises import check_run
from stack import Callboard


@pytest.fixture
def settings(callboard: Callboard) -> Settings:
    return Settings(amqp_url=SecretStr(callboard.urls.amqp), database_url=SecretStr(callboard.urls.database))


@pytest.fixture
def sender(settings: Settings) -> Iterator[BlockingClient]:
    client = BlockingClient(settings)
    yield client
    client.close()


def large(user: str, size: int, run: str, filler: str = "x") -> RunCommand:
    props = {"filler": filler * size}
    return RunCommand(
        user_id=user, thread_id=f"of-{run}", run_id=run, agent_id="chat", message="hello", forwarded_props=props
    )


async def test_a_command_too_large_for_a_message_is_a_run_like_any_other(
    callboard: Callboard, client: FrontClient, sender: BlockingClient
) -> None:
    run = fresh("run")
    command = large(client.user, 2 * MAX_COMMAND_BYTES, run)
    answer = await asyncio.to_thread(sender.send, command)
    again = await asyncio.to_thread(sender.send, command)
    assert (again.run_id, again.task_id) == (run, answer.task_id), "the same run has one task, however far it is"
    with pytest.raises(RunIdConflict):
        await asyncio.to_thread(sender.send, large(client.user, 2 * MAX_COMMAND_BYTES, run, "y"))
    await check_run(callboard, client, run, readers=[await client.read(run)])


async def test_the_limits_are_named(settings: Settings, client: FrontClient, sender: BlockingClient) -> None:
    with pytest.raises(TooLarge, match=f"a command may have {MAX_CLAIM_BYTES}"):
        await asyncio.to_thread(sender.send, large(client.user, MAX_CLAIM_BYTES, fresh("run")))
    poor = await asyncio.to_thread(BlockingClient, settings.model_copy(update={"database_url": None}))
    try:
        with pytest.raises(TooLarge, match=f"{MAX_COMMAND_BYTES}; with CALLBOARD_DATABASE_URL set"):
            await asyncio.to_thread(poor.send, large(client.user, MAX_COMMAND_BYTES, fresh("run")))
    finally:
        await asyncio.to_thread(poor.close)
