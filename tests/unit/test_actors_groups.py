"""Commands of many partitions at work together: what is grouped, what is retried, and what one costs the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from uuid import UUID, uuid4

import pytest

from callboard_actors.commit import Fences, PartitionsLost, Versioned
from callboard_actors.facts import Facts, Policy
from callboard_actors.groups import SMALL, Groups, Services
from callboard_actors.mailbox import PartitionMailboxes
from callboard_actors.sessions import NEW, Held, Sessions
from callboard_actors.settle import Envelope
from callboard_actors.writes import OutboxItem
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import PARTITIONS, partition_of, run_uuid, session_uuid, utcnow
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.errors import AttemptAlive, Unavailable
from callboard_runtime.settings import ActorSettings, RunSettings, Settings


def usual() -> Facts:
    return Facts(now=utcnow(), policy=Policy.of(RunSettings()), config={})


@dataclass
class Memory:
    """A store that keeps states; it can be away, have lost partitions, or choke on a session."""

    stored: dict[UUID, Held] = field(default_factory=dict)
    lost: set[int] = field(default_factory=set)
    poison: set[UUID] = field(default_factory=set)
    away: int = 0  # commits that fail from here on
    groups: list[tuple[set[int], int]] = field(default_factory=list)  # what was written: partitions, commands
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    facts: list[Facts] = field(default_factory=list)  # for the next looks, instead of the usual
    begun: int = 0  # commits
    looks: list[int] = field(default_factory=list)  # how many commands each was for

    def at_hand(self, held: Held, command: c.Command) -> Facts | None:
        return None

    async def look(self, asked: Sequence[tuple[Held | None, c.Command]]) -> list[tuple[Held, Facts | None]]:
        self.looks.append(len(asked))
        facts = self.facts.pop(0) if self.facts else usual()
        return [(held or self.stored.get(command.session_id, NEW), facts) for held, command in asked]

    async def gather(self, snapshot: StateSnapshot, command: c.Command) -> Facts:
        raise AssertionError("nothing here needs it")

    async def commit(self, fences: Fences, group: Sequence[Versioned]) -> list[OutboxItem]:
        self.begun += 1
        await self.gate.wait()
        if self.away:
            self.away -= 1
            raise Unavailable("the store is away")
        if gone := fences.keys() & self.lost:
            raise PartitionsLost(frozenset(gone), "another process owns this partition now")
        ids = [versioned.decided.command.session_id for versioned in group]
        if self.poison & set(ids):
            raise ValueError("a command that nobody can write")
        for versioned in group:
            held = Held(versioned.decided.after, versioned.version + 1)
            assert self.stored.get(versioned.decided.command.session_id, NEW).version == versioned.version
            self.stored[versioned.decided.command.session_id] = held
        self.groups.append((set(fences), len(group)))
        return []

    async def forget(self, session_id: UUID) -> None:
        pass


@dataclass
class Delivered:
    fate: str = "kept"

    def ack(self) -> None:
        self.fate = "acknowledged"

    def reject(self) -> None:
        self.fate = "dead letter"


class Process:
    """The groups of a process, with mailboxes for whatever partitions are written to."""

    def __init__(self, **actors: int) -> None:
        self.store, self.replies = Memory(), dict[str, asyncio.Future[c.Reply]]()
        settings = Settings(actors=ActorSettings(**actors))
        self.groups = Groups(Services(self.store, settings, self, lambda _: None))
        self.mailboxes: dict[int, PartitionMailboxes] = {}

    def reply(self, reply_to: str, correlation_id: str, body: bytes) -> None:
        self.replies[correlation_id].set_result(c.decode_reply(body))

    def send(self, thread: str, run: str = "run") -> tuple[Delivered, asyncio.Future[c.Reply]]:
        return self.post(accept(thread, run))

    def post(self, command: c.Command) -> tuple[Delivered, asyncio.Future[c.Reply]]:
        correlation = uuid4().hex
        number = partition_of(command.session_id)
        if number not in self.mailboxes:
            self.mailboxes[number] = PartitionMailboxes(number, 1, self.groups)
        delivered, future = Delivered(), asyncio.get_running_loop().create_future()
        self.replies[correlation] = future
        self.mailboxes[number].put(Envelope(c.encode_command(command), "caller", correlation, delivered))
        return delivered, future


def accept(thread: str, run: str) -> c.AcceptRun:
    return c.AcceptRun(
        session_id=session_uuid("ada", thread),
        user_id="ada",
        thread_id=thread,
        run_id=f"{thread}-{run}",
        digest=run,
        input=RunInput(messages=(NewMessage(message_id=f"{thread}-{run}", role="user", content="hello"),)),
        not_after=utcnow() + timedelta(minutes=1),
    )


def start(thread: str, process: str) -> c.StartRun:
    run_id = run_uuid("ada", f"{thread}-run")
    return c.StartRun(session_id=session_uuid("ada", thread), run_id=run_id, leg=1, attempt_id=uuid4(), process=process)


def threads(count: int) -> list[str]:
    """Names of sessions in as many partitions."""
    found: dict[int, str] = {}
    for number in range(100 * PARTITIONS):
        partition = partition_of(session_uuid("ada", f"t{number}"))
        if len(found) < count:
            found.setdefault(partition, f"t{number}")
    return list(found.values())


@pytest.fixture
def it() -> Process:
    return Process()


async def answered(future: asyncio.Future[c.Reply]) -> c.Reply:
    return await asyncio.wait_for(future, 20)


async def test_what_waits_over_all_partitions_is_one_commit(it: Process) -> None:
    sent = [it.send(thread) for thread in threads(10)]
    it.store.gate.set()
    for _, reply in sent:
        (await answered(reply)).unwrap()
    assert len(it.store.groups) == 1
    assert it.store.groups[0][1] == 10


async def test_what_comes_during_a_commit_is_looked_up_once_ahead_and_then_together(it: Process) -> None:
    """More looks during one commit would commit nothing sooner."""
    names = threads(7)
    sent = [it.send(names[0])]
    await until(lambda: it.store.begun)
    for thread in names[1:]:
        sent.append(it.send(thread))
        for _ in range(5):
            await asyncio.sleep(0)
    assert it.store.looks == [1, 1]
    it.store.gate.set()
    for _, reply in sent:
        (await answered(reply)).unwrap()
    assert it.store.looks == [1, 1, 5]
    assert [count for _, count in it.store.groups] == [1, 1, 5]


@pytest.mark.parametrize(("more", "commits"), [(3, 1), (4, 2)])
async def test_a_second_commit_beside_the_first_is_a_full_one(more: int, commits: int) -> None:
    it = Process(group_size=4)
    names = threads(1 + more)
    sent = [it.send(names[0])]
    await until(lambda: it.store.begun)
    sent += [it.send(thread) for thread in names[1:]]
    await until(lambda: len(it.store.looks) == 2)
    for _ in range(5):
        await asyncio.sleep(0)
    assert it.store.begun == commits
    it.store.gate.set()
    for _, reply in sent:
        (await answered(reply)).unwrap()
    assert sorted(count for _, count in it.store.groups) == [1, more]


async def test_looks_go_on_when_what_was_ahead_has_lost_its_partition(it: Process) -> None:
    names = threads(3)
    first = it.send(names[0])
    await until(lambda: it.store.begun)
    ahead = it.send(names[1])
    await until(lambda: len(it.store.looks) == 2)
    it.mailboxes[partition_of(session_uuid("ada", names[1]))].lose("taken by another process")
    behind = it.send(names[2])
    it.store.gate.set()
    for _, reply in (first, behind):
        (await answered(reply)).unwrap()
    assert not ahead[1].done()


async def test_a_lost_partition_costs_the_others_of_its_group_nothing(it: Process) -> None:
    names = threads(6)
    lost = partition_of(session_uuid("ada", names[2]))
    it.store.lost.add(lost)
    sent = [it.send(thread) for thread in names]
    it.store.gate.set()
    for number, (delivered, reply) in enumerate(sent):
        if number != 2:
            (await answered(reply)).unwrap()
            await until(lambda delivered=delivered: delivered.fate == "acknowledged")
    assert it.mailboxes[lost].lost.is_set()
    assert sent[2][0].fate == "kept", "its new owner gets it from the broker"
    assert not sent[2][1].done()
    assert not any(mailboxes.lost.is_set() for number, mailboxes in it.mailboxes.items() if number != lost)


async def test_a_command_that_cannot_be_written_is_set_aside_alone(it: Process) -> None:
    names = threads(5)
    it.store.poison.add(session_uuid("ada", names[1]))
    sent = [it.send(thread) for thread in names]
    it.store.gate.set()
    replies = [await answered(reply) for _, reply in sent]
    assert [reply.error is None for reply in replies] == [True, False, True, True, True]
    await until(lambda: [delivered.fate for delivered, _ in sent].count("acknowledged") == 4)
    assert sent[1][0].fate == "dead letter"


async def test_an_outage_is_waited_out_and_nothing_is_written_twice(it: Process) -> None:
    it.store.away = 3
    sent = [it.send(thread, run) for thread in threads(4) for run in ("r1", "r2")]
    it.store.gate.set()
    for _, reply in sent:
        (await answered(reply)).unwrap()
    assert sorted(held.version for held in it.store.stored.values()) == [2, 2, 2, 2]


async def test_commands_of_one_session_are_committed_in_their_order(it: Process) -> None:
    [thread] = threads(1)
    sent = [it.send(thread, f"r{number}") for number in range(5)]
    it.store.gate.set()
    for _, reply in sent:
        (await answered(reply)).unwrap()
    [held] = it.store.stored.values()
    active, queue = held.snapshot.active, held.snapshot.queue
    assert active is not None
    assert [active.client_run_id, *(run.client_run_id for run in queue)] == [f"{thread}-r{n}" for n in range(5)]


async def test_a_takeover_that_waited_too_long_looks_again(it: Process) -> None:
    """While it waited for its commit, the attempt that had been silent came back."""
    [thread] = threads(1)
    it.store.gate.set()
    (await answered(it.send(thread)[1])).unwrap()
    (await answered(it.post(start(thread, "first"))[1])).unwrap()
    it.store.facts = [replace(usual(), now=utcnow() - timedelta(seconds=11)), replace(usual(), attempt_alive=True)]
    with pytest.raises(AttemptAlive):
        (await answered(it.post(start(thread, "second"))[1])).unwrap()
    (await answered(it.post(start(thread, "third"))[1])).unwrap()
    [held] = it.store.stored.values()
    assert held.snapshot.active is not None
    assert held.snapshot.active.process == "third"


async def test_closing_waits_for_the_commit_and_leaves_the_rest_to_the_broker(it: Process) -> None:
    [thread] = threads(1)
    first, second = it.send(thread, "r1"), it.send(thread, "r2")
    [mailboxes] = it.mailboxes.values()
    await until(lambda: mailboxes._under_way == 1)
    closing = asyncio.ensure_future(mailboxes.close())
    await asyncio.sleep(0)
    assert not closing.done()
    it.store.gate.set()
    await asyncio.wait_for(closing, 20)
    assert (first[0].fate, second[0].fate) == ("acknowledged", "kept")


async def test_a_group_larger_than_the_cache_sees_its_sessions_as_they_are() -> None:
    it = Process(cache_sessions=1)
    it.store.gate.set()
    names = [f"t{number}" for number in range(2000) if partition_of(session_uuid("ada", f"t{number}")) == 0]
    assert len(names) > 16
    for run in ("r1", "r2"):
        for _, reply in [it.send(thread, run) for thread in names]:
            (await answered(reply)).unwrap()
    assert {held.version for held in it.store.stored.values()} == {2}


def test_the_cache_keeps_what_was_used_last() -> None:
    sessions, ids = Sessions(limit=2), [UUID(int=number) for number in range(3)]
    held = [Held(StateSnapshot.new(session_id), 7) for session_id in ids]
    sessions.replace(ids[0], held[0])
    sessions.replace(ids[1], held[1])
    assert sessions.get(ids[0]) is held[0]
    sessions.replace(ids[2], held[2])
    assert [sessions.get(session_id) for session_id in ids] == [held[0], None, held[2]]


async def test_what_a_run_was_asked_is_held_until_it_is_attempted(it: Process) -> None:
    it.store.gate.set()
    held: list[RunInput | None] = []
    it.store.at_hand = lambda known, _: held.append(known.untried)  # type: ignore[method-assign]
    asked = accept("t", "run")
    for command in (asked, start("t", "w"), start("t", "w")):
        it.store.facts = [replace(usual(), input=asked.input)]
        await answered(it.post(command)[1])
    assert held == [asked.input, None]


async def test_what_is_large_is_not_held(it: Process) -> None:
    it.store.gate.set()
    held: list[RunInput | None] = []
    it.store.at_hand = lambda known, _: held.append(known.untried)  # type: ignore[method-assign]
    asked = accept("t", "run")
    said = NewMessage(message_id="m", role="user", content="x" * SMALL)
    await answered(it.post(asked.but(input=RunInput(messages=(said,))))[1])
    await answered(it.post(start("t", "w"))[1])
    assert held == [None]


async def until(holds: object) -> None:
    async with asyncio.timeout(20):
        while not holds():  # type: ignore[operator]  # noqa: ASYNC110 - nothing tells of an acknowledgement
            await asyncio.sleep(0.001)
