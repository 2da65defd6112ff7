"""What the fault tests ask of the stack: who holds what, what was attempted, what the provider was asked."""

import asyncio
from uuid import UUID

import aio_pika

from callboard_runtime.broker import topology
from callboard_runtime.domain.ids import partition_of, run_uuid, session_uuid
from callboard_runtime.entry.wakeup import wakeup_message
from front_client import FrontClient, Json, Reader, fresh
from model_server import ANSWER, INPUT_TOKENS, OUTPUT_TOKENS, ModelServer
from promises import check_run
from stack import Callboard, Node
from waiting import until

RUNS = 3

Following = list[tuple[str, str, Reader, "asyncio.Task[Reader]"]]


async def holder(callboard: Callboard, client: FrontClient, run: str) -> Node:
    """The worker process that holds the run's open attempt."""
    statement = "SELECT process FROM run_attempts WHERE run_id = $1 AND ended_at IS NULL"

    async def found() -> Node | None:
        rows = await callboard.query(statement, run_uuid(client.user, run))
        return node_of(callboard, rows[0]["process"]) if rows else None

    return await until(found, f"an attempt of {run}")


async def owner(callboard: Callboard, client: FrontClient, thread: str) -> Node | None:
    """The actor process that owns the thread's partition."""
    partition = partition_of(session_uuid(client.user, thread))
    rows = await callboard.query("SELECT owner FROM partitions WHERE partition = $1", partition)
    return node_of(callboard, rows[0]["owner"]) if rows and rows[0]["owner"] else None


def node_of(callboard: Callboard, process: str) -> Node | None:
    """The process of that name in `processes`, if it is alive."""
    return next((node for node in callboard.nodes if f"-{node.pid}-" in process and node.alive), None)


async def attempts(callboard: Callboard, client: FrontClient, run: str) -> list[str | None]:
    """How the run's attempts came out, in order."""
    statement = "SELECT outcome FROM run_attempts WHERE run_id = $1 ORDER BY epoch"
    return [row["outcome"] for row in await callboard.query(statement, run_uuid(client.user, run))]


async def idle(callboard: Callboard, node: Node) -> None:
    """Wait until a worker says, in a fresh heartbeat, that it runs nothing."""
    statement = "SELECT 1 FROM processes WHERE id LIKE $1 AND beat_at > $2 AND attempts = '[]'"
    [now] = await callboard.query("SELECT now() AS t")

    async def says_so() -> bool:
        return bool(await callboard.query(statement, f"%-{node.pid}-%", now["t"]))

    await until(says_so, f"worker {node.pid} idle")


async def check_calls(
    client: FrontClient, model: ModelServer, key: str, thread: str, *, kills: int, extra_calls: int = 0
) -> list[Json]:
    """Provider calls <= rows <= calls + kills; recorded rows are exact, the others are marked as estimates."""
    rows, calls = await client.calls(thread), len(model.of(key)) + extra_calls
    assert calls <= len(rows) <= calls + kills, (calls, rows)
    for row in rows:
        if row["status"] == "recorded":
            assert (row["input_tokens"], row["output_tokens"]) == (INPUT_TOKENS, OUTPUT_TOKENS), row
            assert not row["estimated"]
        else:
            assert row["estimated"], row
    return rows


class Wakeups:
    """The workers' queue, from outside. Use it with `async with`."""

    def __init__(self, amqp_url: str) -> None:
        self._url = amqp_url

    async def __aenter__(self) -> "Wakeups":
        self._connection = await aio_pika.connect(self._url)
        self._channel = await self._connection.channel()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._connection.close()

    async def waiting(self) -> int:
        """How many wake-ups no worker has taken; the queue must exist."""
        queue = await self._channel.declare_queue(topology.WORKER_QUEUE, passive=True)
        return queue.declaration_result.message_count or 0

    async def purge(self) -> int:
        queue = await self._channel.get_queue(topology.WORKER_QUEUE)
        return (await queue.purge()).message_count or 0

    async def send(self, client: FrontClient, thread: str, run: str) -> None:
        """Publish one more wake-up of the run's first leg."""
        session_id: UUID = session_uuid(client.user, thread)
        message = wakeup_message(session_id, run_uuid(client.user, run), 1)
        exchange = await self._channel.get_exchange(topology.WORKER_EXCHANGE)
        await exchange.publish(message, topology.WORKER_QUEUE)


async def in_mid_answer(client: FrontClient, model: ModelServer, key: str) -> Following:
    """Some runs whose answers wait in the middle, each with a reader that has seen the first half."""
    threads = [fresh("thread") for _ in range(RUNS)]
    runs = await asyncio.gather(*(client.start(f"hold:{key}", thread=thread) for thread in threads))
    following = [(thread, run, *client.follow(run)) for thread, run in zip(threads, runs, strict=True)]
    await until(lambda: all("three" in reader.text for _, _, reader, _ in following), "half an answer everywhere")
    return following


async def all_end(callboard: Callboard, client: FrontClient, following: Following) -> None:
    """Every reader reaches the end, and every run is whole."""
    for _, run, reader, task in following:
        await asyncio.wait_for(task, 90)
        await check_run(callboard, client, run, readers=[reader], text=ANSWER)


async def one_more(callboard: Callboard, client: FrontClient) -> None:
    """A run after the fault, to see that everything is back."""
    run = await client.start("hello")
    await check_run(callboard, client, run, readers=[await client.read(run)], text=ANSWER)
