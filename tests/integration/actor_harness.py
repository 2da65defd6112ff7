"""One partition's mailboxes on a real database and Redis, driven without a broker."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors.connections import Connections
from callboard_actors.groups import CONNECTIONS, Groups, Services
from callboard_actors.mailbox import PartitionMailboxes
from callboard_actors.settle import Envelope
from callboard_actors.store import PostgresStore
from callboard_actors.writes import OutboxItem
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import EventBatch, batch
from callboard_runtime.domain.ids import partition_of, run_uuid, session_uuid, utcnow
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import LlmSettings, Settings
from callboard_runtime.stream.tail import TailStore

USER = "ada"
TAKE = "UPDATE partitions SET partition_epoch = partition_epoch + 1 WHERE partition = :p RETURNING partition_epoch"


@dataclass
class Delivered:
    """A message on loan: notes what became of it."""

    fate: asyncio.Future[str] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def ack(self) -> None:
        self.fate.set_result("ack")

    def reject(self) -> None:
        self.fate.set_result("reject")


class Replies:
    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[c.Reply]] = {}

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        self.waiting[correlation_id].set_result(c.decode_reply(body))


class Actor:
    """The mailboxes of one partition, and a caller that waits for replies."""

    def __init__(
        self, partition: int, engine: AsyncEngine, connections: Connections, tail: TailStore, settings: Settings
    ) -> None:
        self.partition, self.engine, self.connections = partition, engine, connections
        self.tail, self.settings = tail, settings
        self.replies = Replies()
        self.outbox: list[OutboxItem] = []
        self.mailboxes: PartitionMailboxes | None = None
        self.blind = False  # whether its heartbeats did not come through lately

    async def take(self) -> PartitionMailboxes:
        """Own the partition anew; the former mailboxes are fenced from here on."""
        async with self.engine.begin() as db:
            epoch = await db.scalar(text(TAKE), {"p": self.partition})
        store = PostgresStore(self.engine, self.connections, self.settings, self.tail, lambda _: not self.blind)
        groups = Groups(Services(store, self.settings, self.replies, self._committed))
        self.mailboxes = PartitionMailboxes(self.partition, epoch or 0, groups)
        return self.mailboxes

    def _committed(self, items: Sequence[OutboxItem]) -> None:
        self.outbox += items

    def post(self, command: c.Command | bytes) -> tuple[Delivered, asyncio.Future[c.Reply]]:
        assert self.mailboxes is not None
        correlation, delivered = uuid.uuid4().hex, Delivered()
        body = command if isinstance(command, bytes) else c.encode_command(command)
        self.replies.waiting[correlation] = asyncio.get_running_loop().create_future()
        self.mailboxes.put(Envelope(body, "caller", correlation, delivered))
        return delivered, self.replies.waiting[correlation]

    async def send(self, command: c.Command) -> c.Answer:
        """The answer, after the message was acknowledged; raises the error replied."""
        delivered, reply = self.post(command)
        answer = (await asyncio.wait_for(reply, 20)).unwrap()
        assert await asyncio.wait_for(delivered.fate, 20) == "ack"
        return answer

    async def rows(self, sql: str, **values: object) -> list[dict[str, object]]:
        async with self.engine.connect() as db:
            return [dict(row) for row in (await db.execute(text(sql), values)).mappings()]


@asynccontextmanager
async def actor(postgres_url: str, redis_url: str, redis_prefix: str, thread: str = "t1") -> AsyncIterator[Actor]:
    settings = Settings(database_url=SecretStr(postgres_url), llm=LlmSettings(default_model="scripted"))
    engine = create_engine(postgres_url, pool=5)
    connections = await Connections.open(settings, CONNECTIONS, "actors")
    tail = TailStore.from_url(redis_url, redis_prefix)
    it = Actor(partition_of(session_uuid(USER, thread)), engine, connections, tail, settings)
    await it.take()
    try:
        yield it
    finally:
        if it.mailboxes is not None:
            await it.mailboxes.close()
        await tail.close()
        await connections.close()
        await engine.dispose()


def accept(run_id: str, *, thread: str = "t1", text: str = "hello", **changes: object) -> c.AcceptRun:
    message = NewMessage(message_id=f"m-{run_id}", role="user", content=text)
    return c.AcceptRun(
        session_id=session_uuid(USER, thread),
        user_id=USER,
        thread_id=thread,
        run_id=run_id,
        digest=f"digest of {text}",
        input=RunInput(messages=(message,)),
        not_after=utcnow() + timedelta(seconds=30),
    ).but(**changes)


def start(run_id: str, *, thread: str = "t1", attempt: uuid.UUID | None = None, process: str = "w1") -> c.StartRun:
    return c.StartRun(
        session_id=session_uuid(USER, thread),
        run_id=run_uuid(USER, run_id),
        leg=1,
        attempt_id=attempt or uuid.uuid4(),
        process=process,
    )


@dataclass
class Worker:
    """The commands of one attempt, numbered."""

    run_id: str
    epoch: int
    seq: int
    thread: str = "t1"
    ordinal: int = 0

    @classmethod
    def of(cls, run_id: str, answer: c.Answer, thread: str = "t1") -> Worker:
        assert isinstance(answer, c.StartAnswer)
        return cls(run_id, answer.epoch, answer.opening.last_seq, thread)

    def show(self, *events: dict[str, object]) -> EventBatch:
        shown = batch(self.epoch, self.seq + 1, events)
        self.seq += len(events)
        return shown

    def command(self, kind: type, events: EventBatch | None = None, **fields: object) -> c.AttemptCommand:
        self.ordinal += 1
        place = {"session_id": session_uuid(USER, self.thread), "run_id": run_uuid(USER, self.run_id)}
        return kind(**place, epoch=self.epoch, ordinal=self.ordinal, events=events, **fields)
