"""The command client against an actor that answers from a script, on both brokers."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
from aio_pika.abc import DeliveryMode

from callboard_runtime.broker.commander import CommandClient
from callboard_runtime.domain.commands import (
    CancelRun,
    DoneAnswer,
    EnforceDeadline,
    Reply,
    RunAnswer,
    StepAnswer,
    refusal,
)
from callboard_runtime.domain.ids import partition_of, utcnow
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.errors import StaleEpoch, Unavailable
from contracts.peers import partition_queues, scripted_actor
from services import TcpProxy
from waiting import until

SESSION = uuid.UUID(int=7)
PARTITION = partition_of(SESSION)
PATIENCE = 15.0


@pytest.fixture
async def client(broker_url: str) -> AsyncIterator[CommandClient]:
    commands = await CommandClient.connect(broker_url, "test")
    yield commands
    await commands.close()


def deadline(session: uuid.UUID = SESSION, run: int = 1) -> EnforceDeadline:
    return EnforceDeadline(session_id=session, run_id=uuid.UUID(int=run))


async def done(_: object) -> Reply:
    return Reply(answer=DoneAnswer())


async def test_returns_the_answer_and_marks_the_message(broker_url: str, client: CommandClient) -> None:
    answer = RunAnswer(run_id="r", thread_id="t", task_id="x", status=RunStatus.QUEUED)

    async def script(_: object) -> Reply:
        return Reply(answer=answer)

    async with scripted_actor(broker_url, script, PARTITION) as actor:
        assert await client.send(deadline(), PATIENCE) == answer
    message = actor.messages[0]
    assert message.content_type == "application/json"
    assert message.delivery_mode is DeliveryMode.PERSISTENT
    assert message.expiration is None
    assert message.type == "EnforceDeadline"
    assert actor.commands == [deadline()]


async def test_raises_the_error_that_the_actor_replied_with(broker_url: str, client: CommandClient) -> None:
    async def script(_: object) -> Reply:
        return refusal(StaleEpoch("epoch 3 is over"))

    async with scripted_actor(broker_url, script, PARTITION):
        with pytest.raises(StaleEpoch, match="epoch 3 is over"):
            await client.send(deadline(), PATIENCE)


async def test_many_requests_are_under_way_at_once_and_get_their_own_answers(
    broker_url: str, client: CommandClient
) -> None:
    all_here = asyncio.Event()
    count = 60

    async def script(command: EnforceDeadline) -> Reply:
        if len(actor.commands) == count:
            all_here.set()
        await all_here.wait()
        return Reply(answer=StepAnswer(committed_seq=command.run_id.int))

    async with scripted_actor(broker_url, script, PARTITION) as actor:
        answers = await asyncio.gather(*(client.send(deadline(run=n), PATIENCE) for n in range(1, count + 1)))
    assert [answer.committed_seq for answer in answers] == list(range(1, count + 1))


async def test_commands_of_one_session_arrive_in_the_order_they_were_sent(
    broker_url: str, client: CommandClient
) -> None:
    async with scripted_actor(broker_url, done, PARTITION) as actor:
        await asyncio.gather(*(client.send(deadline(run=n), PATIENCE) for n in range(50)))
    assert [command.run_id.int for command in actor.commands] == list(range(50))


async def test_no_reply_in_time_is_unavailable(broker_url: str, client: CommandClient) -> None:
    async def silent(_: object) -> None:
        return None

    async with scripted_actor(broker_url, silent, PARTITION):
        with pytest.raises(Unavailable) as raised:
            await client.send(deadline(), 0.2)
    assert raised.value.retry_after == 1


async def test_without_a_queue_the_command_is_unavailable(client: CommandClient) -> None:
    with pytest.raises(Unavailable, match="no session actor"):
        await client.send(deadline(), PATIENCE)
    with pytest.raises(Unavailable, match="no session actor"):
        await client.tell(deadline())


async def test_a_full_mailbox_is_unavailable_with_retry_after(broker_url: str, client: CommandClient) -> None:
    async with partition_queues(broker_url, PARTITION, **{"x-max-length": 2}):
        refused: list[Unavailable] = []
        async with asyncio.timeout(PATIENCE):
            while not refused:
                try:
                    await client.tell(deadline())
                except Unavailable as error:
                    refused.append(error)
        assert refused[0].retry_after == 1


async def test_tell_returns_when_the_broker_has_it(broker_url: str, client: CommandClient) -> None:
    async def nothing(_: object) -> None:
        return None

    async with partition_queues(broker_url, PARTITION):
        await client.tell(deadline())
    async with scripted_actor(broker_url, nothing, PARTITION) as actor:
        assert await actor.until(1) == [deadline()]
    assert actor.messages[0].reply_to is None


async def test_after_a_cut_the_command_is_sent_again_with_the_new_reply_queue(
    broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    proxy = await tcp_proxy(broker_url)
    client = await CommandClient.connect(proxy.url(broker_url), "test")

    async def silent_at_first(_: object) -> Reply | None:
        return None if len(actor.commands) == 1 else Reply(answer=StepAnswer(committed_seq=5))

    async with scripted_actor(broker_url, silent_at_first, PARTITION) as actor:
        answer = asyncio.create_task(client.send(deadline(), PATIENCE))
        await actor.until(1)
        await proxy.disconnect_all()
        assert await answer == StepAnswer(committed_seq=5)
        first, second = actor.messages
    assert first.body == second.body
    assert first.reply_to != second.reply_to
    await client.close()


async def test_a_command_is_never_sent_again_after_its_not_after(
    broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    proxy = await tcp_proxy(broker_url)
    client = await CommandClient.connect(proxy.url(broker_url), "test")
    not_after = utcnow() + timedelta(seconds=0.5)
    cancel = CancelRun(session_id=SESSION, user_id="u", run_id="r", not_after=not_after)

    async def silent(_: object) -> None:
        return None

    async with scripted_actor(broker_url, silent, PARTITION) as actor:
        sending = asyncio.create_task(client.send(cancel, PATIENCE))
        await actor.until(1)
        await proxy.refuse()
        await until(lambda: utcnow() > not_after)
        await proxy.accept()
        with pytest.raises(Unavailable, match="in time"):
            await sending
        await client.tell(deadline())
        assert await actor.until(2) == [cancel, deadline()]
    await client.close()


async def test_a_broker_that_is_away_at_first_is_found_later(
    broker_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    proxy = await tcp_proxy(broker_url)
    await proxy.refuse()
    client = await CommandClient.connect(proxy.url(broker_url), "test", wait=0.05)
    assert not client.connected
    with pytest.raises(Unavailable):
        await client.send(deadline(), 0.1)
    async with scripted_actor(broker_url, done, PARTITION):
        answer = asyncio.create_task(client.send(deadline(), PATIENCE))
        await proxy.accept()
        assert await answer == DoneAnswer()
    assert client.connected
    await client.close()
    assert not client.connected


async def test_a_cancelled_caller_stays_cancelled_and_leaves_nothing_behind(
    broker_url: str, client: CommandClient
) -> None:
    async def silent(command: EnforceDeadline) -> Reply | None:
        return None if command.run_id.int == 1 else Reply(answer=DoneAnswer())

    async with scripted_actor(broker_url, silent, PARTITION) as actor:
        sending = asyncio.create_task(client.send(deadline(run=1), PATIENCE))
        await actor.until(1)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert await client.send(deadline(run=2), PATIENCE) == DoneAnswer()
