"""The actor's commit path, fed in-process, against a transaction with a row lock for every command."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Self

import orjson
import uvloop
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from benchmarks import meter
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say
from callboard_actors.connections import Connections
from callboard_actors.groups import CONNECTIONS, Groups, Services
from callboard_actors.mailbox import PartitionMailboxes
from callboard_actors.settle import Envelope
from callboard_actors.store import PostgresStore
from callboard_actors.writes import OutboxItem
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.event_batch import AguiEvent, batch
from callboard_runtime.domain.ids import PARTITIONS, partition_of, run_uuid, session_uuid
from callboard_runtime.domain.run_input import NewMessage
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.garbage import leave_loaded_alone
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import ActorSettings, LlmSettings, Settings
from callboard_runtime.stream.tail import TailStore
from speakers import accept_run

USER = "bench"
EVENTS = 20  # of one step
RUNS = 2  # per session
A_DAY = 24 * 3600.0  # seconds
TAKE = "UPDATE partitions SET partition_epoch = partition_epoch + 1 RETURNING partition, partition_epoch"
USAGE = CallUsage(provider="openai", model="bench", input_tokens=50, output_tokens=64)
DELTA: AguiEvent = {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": "some words of an answer "}


def run(world: World, sizes: Sizes) -> Result:
    say(f"actor_commits: {sizes.sessions} sessions")
    grouped = ActorSettings().group_size
    leave_loaded_alone()
    with world.stack() as stack:
        ours = uvloop.run(_actor(stack, sizes.sessions, f"actor, groups of at most {grouped}", grouped))
    with world.stack() as stack:
        single = uvloop.run(_actor(stack, sizes.sessions, "actor, each command by itself", 1))
    with world.stack() as stack:
        locked = uvloop.run(_locked(stack, sizes.sessions))
    return Result(
        "actor_commits",
        (Table(f"{sizes.sessions} sessions at once, {RUNS} runs of 5 commands each", (ours, single, locked)),),
        (
            "The actor reads encoded commands, decides, writes all that a run leaves behind (snapshot, run, leg, "
            "attempt, messages, journal, usage, events, outbox) and encodes its answers. Commands are encoded before "
            "the clock starts, and answers are read when it has stopped: both is their senders' work.",
            "The row lock is there to compare with: it has no command to read and nothing to decide or to answer. It "
            "only locks and reads the session's row, writes it back with a state of the same size, and inserts the "
            "command's events.",
        ),
    )


# -- the actor --------------------------------------------------------------------------------------------------------


class _Delivery:
    def ack(self) -> None: ...
    def reject(self) -> None: ...


class _Replies:
    """Keeps what the actors answer; whoever waits for an answer goes on."""

    def __init__(self) -> None:
        self.waiting: dict[str, asyncio.Future[bytes]] = {}

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        self.waiting.pop(correlation_id).set_result(body)


class _Actors:
    """Every partition of one process, without a broker."""

    def __init__(self, epochs: dict[int, int], groups: Groups, replies: _Replies) -> None:
        self._replies = replies
        self._mailboxes = [PartitionMailboxes(number, epochs[number], groups) for number in range(PARTITIONS)]

    async def play(self, script: Script) -> list[bytes]:
        """Send a session's commands, each after the answer to the one before; returns the answers."""
        return [
            await self._send(script.partition, f"{script.thread}/{n}", body) for n, body in enumerate(script.bodies)
        ]

    def _send(self, partition: int, correlation: str, body: bytes) -> asyncio.Future[bytes]:
        answer = self._replies.waiting[correlation] = asyncio.get_running_loop().create_future()
        self._mailboxes[partition].put(Envelope(body, "caller", correlation, _Delivery()))
        return answer

    async def close(self) -> None:
        await asyncio.gather(*(mailboxes.close() for mailboxes in self._mailboxes))


async def _actor(stack: Stack, sessions: int, name: str, group_size: int) -> Row:
    settings = Settings(
        database_url=SecretStr(stack.database),
        llm=LlmSettings(default_model="scripted"),
        actors=ActorSettings(group_size=group_size),
    )
    engine = create_engine(settings)
    tail = TailStore.from_url(stack.redis, "bench")
    async with engine.begin() as db:
        epochs = {row.partition: row.partition_epoch for row in await db.execute(text(TAKE))}
    replies = _Replies()
    connections = await Connections.open(settings, CONNECTIONS, "bench")
    store = PostgresStore(engine, connections, settings, tail)
    actors = _Actors(epochs, Groups(Services(store, settings, replies, _nothing)), replies)
    answered = await actors.play(Script.of("warm-up"))
    scripts = [Script.of(f"thread-{number}") for number in range(sessions)]
    answers: list[list[bytes]] = []

    async def play(script: Script) -> int:
        answers.append(await actors.play(script))
        return len(script.bodies)

    row = await _timed(name, stack, [play(script) for script in scripts])
    for body in chain(answered, *answers):
        c.decode_reply(body).unwrap()  # a refused command would count for nothing
    await actors.close()
    await tail.close()
    await connections.close()
    await engine.dispose()
    return row


def _nothing(_: Sequence[OutboxItem]) -> None:
    """Nobody relays what is due."""


@dataclass(frozen=True)
class Script:
    """The commands of one session, encoded before the clock starts: making them is their senders' work."""

    thread: str
    partition: int
    bodies: tuple[bytes, ...]

    @classmethod
    def of(cls, thread: str) -> Self:
        commands = [command for number in range(RUNS) for command in _run(thread, number)]
        partition = partition_of(session_uuid(USER, thread))
        return cls(thread, partition, tuple(c.encode_command(command) for command in commands))


def _run(thread: str, number: int) -> list[c.Command]:
    """One run of one model call, the session's epoch being its number."""
    run, epoch = f"{thread}-run-{number}", number + 1
    session_id, run_id = session_uuid(USER, thread), run_uuid(USER, run)
    place = {"session_id": session_id, "run_id": run_id, "epoch": epoch}
    step = c.StepBegin(key="answer/1", kind="model", name="answer", digest="d", provider="openai", model="bench")
    shown = batch(epoch, 2, [DELTA] * EVENTS)  # RUN_STARTED is the first
    record = c.StepRecord(key="answer/1", result={"text": "words"}, usage=USAGE)
    said = NewMessage(message_id=f"{run}-answer", role="assistant", content="words")
    return [
        accept(thread, run),
        c.StartRun(session_id=session_id, run_id=run_id, leg=1, attempt_id=uuid.uuid4(), process="bench"),
        c.BeginStep(**place, ordinal=1, steps=(step,)),
        c.RecordStep(**place, ordinal=2, events=shown, records=(record,)),
        c.FinishRun(**place, ordinal=3, status=RunStatus.SUCCEEDED, messages=(said,)),
    ]


def accept(thread: str, run: str) -> c.AcceptRun:
    return accept_run(USER, thread, run, within=A_DAY)


# -- a row lock per command -------------------------------------------------------------------------------------------

LOCK = text("SELECT state_snapshot, state_version FROM sessions WHERE id = :id FOR UPDATE")
WRITE = text(
    "UPDATE sessions SET state_snapshot = CAST(:state AS jsonb), state_version = state_version + 1 WHERE id = :id"
)
INSERT = text(
    "INSERT INTO event_segments (session_id, epoch, first_seq, last_seq, run_id, leg, lines) "
    "VALUES (:id, :epoch, 1, :count, :id, 1, :lines)"
)
CREATE = text(
    "INSERT INTO sessions (id, user_id, thread_id, state_snapshot) "
    "VALUES (:id, 'bench', :thread, CAST(:state AS jsonb))"
)
STATE = orjson.dumps({"filler": "x" * 740}).decode()  # as large as a session's usual state
LINES = "\n".join(batch(1, 1, [DELTA] * EVENTS).lines)
PATTERN = (0, 1, 0, EVENTS, 2)  # events that the five commands of a run carry


async def _locked(stack: Stack, sessions: int) -> Row:
    engine = create_engine(Settings(database_url=SecretStr(stack.database)))
    ids = [uuid.uuid4() for _ in range(sessions)]
    async with engine.begin() as db:
        await db.execute(CREATE, [{"id": each, "thread": str(each), "state": STATE} for each in ids])
    row = await _timed("SELECT … FOR UPDATE per command", stack, [_locking(engine, each) for each in ids])
    await engine.dispose()
    return row


async def _locking(engine: AsyncEngine, session_id: uuid.UUID) -> int:
    for number in range(RUNS * len(PATTERN)):
        events = PATTERN[number % len(PATTERN)]
        async with _Turn.of(engine).gate, engine.begin() as db:
            await db.execute(LOCK, {"id": session_id})
            if events:
                lines = LINES if events == EVENTS else "\n".join(LINES.split("\n")[:events])
                place = {"id": session_id, "epoch": number + 1, "count": events, "lines": lines}
                await db.execute(INSERT, place)
            await db.execute(WRITE, {"id": session_id, "state": STATE})
    return RUNS * len(PATTERN)


@dataclass
class _Turn:
    """Lets no more in than there are connections: waiting for the pool would time out."""

    gate: asyncio.Semaphore

    @classmethod
    def of(cls, engine: AsyncEngine) -> _Turn:
        return _turns.setdefault(id(engine), cls(asyncio.Semaphore(engine.pool.size())))  # type: ignore[attr-defined]


_turns: dict[int, _Turn] = {}


async def _timed(name: str, stack: Stack, sessions: Sequence[object]) -> Row:
    postgres = {"PostgreSQL": stack.services["PostgreSQL"]}
    commits = await _commits(stack)
    before, own, began = meter.read(postgres), time.process_time(), time.perf_counter()
    counts = await asyncio.gather(*sessions)  # type: ignore[call-overload]
    elapsed, commands = time.perf_counter() - began, sum(counts)
    own, used = time.process_time() - own, meter.cpu_since(postgres, before)["PostgreSQL"]
    return {
        "way": name,
        "commands": commands,
        "commands/s": commands / elapsed,
        "commands/commit": commands / (await _commits(stack) - commits),
        "own CPU us/command": 1e6 * own / commands,
        "PostgreSQL CPU us/command": 1e6 * used / commands,
    }


async def _commits(stack: Stack) -> int:
    """Transactions committed in this database so far; what the server tells lags by a second at most."""
    await asyncio.sleep(1.2)
    [row] = await stack.query("SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()")
    return row[0]
