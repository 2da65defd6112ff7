"""One simulated installation and one schedule of what happens to it; everything comes from the seed.

    World(seed).run()

raises Broken with what was violated. CALLBOARD_TEST_SEED=<seed> makes the tests run that schedule alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any
from unittest import mock
from uuid import UUID

import orjson

from callboard_actors import gather, groups
from callboard_actors.commit import Versioned
from callboard_actors.writes import Writes
from callboard_runtime.broker import commander
from callboard_runtime.domain import commands as c
from callboard_runtime.domain import events as e
from callboard_runtime.domain.ids import partition_of, session_uuid
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.entry import attempt, conduct, run_service
from callboard_runtime.settings import ActorSettings, RunSettings, Settings
from callboard_runtime.stream import guard
from simulation import memory_reads, workers
from simulation.actors import SimActor
from simulation.broker import HEARTBEAT, Broker, Message, command_client
from simulation.browsers import Browser
from simulation.checks import Broken, check_all, took_effect
from simulation.loop import SimLoop
from simulation.processes import Outage, Process
from simulation.store import Tables
from simulation.tail import Streams
from simulation.workers import SimWorker

START = datetime(2026, 1, 1, tzinfo=UTC)
SETTINGS = Settings(
    runs=RunSettings(deadline=60, start_deadline=120, cancel_grace=2, max_queue=5, tool_call_ttl=6),
    actors=ActorSettings(silent_after=3, group_size=8, prefetch=4, cache_sessions=1),
)
SESSIONS, ACTORS, WORKERS, FRONTS = 5, 2, 2, 2
FAULTS, ACTIONS = 6, 5
PATIENCE = 900.0  # seconds of the simulation in which everything must have ended after the last fault


def _threads(partitions: int) -> list[tuple[str, str]]:
    """Users and threads that share so few partitions that commits group them."""
    found: list[tuple[str, str]] = []
    wanted: list[int] = []
    for number in range(10_000):
        name = ("ada", f"t{number}")
        place = partition_of(session_uuid(*name))
        if place not in wanted and len(wanted) < partitions:
            wanted.append(place)
        if place in wanted:
            found.append(name)
        if len(found) == SESSIONS:
            return found
    raise AssertionError


NAMES = _threads(3)


class World:
    """The services, the processes, the clients, and what each of them did."""

    def __init__(self, seed: int, *, sabotage: Callable[[World], None] = lambda _world: None) -> None:
        self.seed, self.chance = seed, random.Random(seed)
        self.loop = SimLoop()
        self.settings = SETTINGS
        self.trace: list[str] = []
        self.broken: list[str] = []
        self.replied: dict[str, c.Reply] = {}
        self.provider: list[tuple[UUID, str, int]] = []  # run, key, epoch of each request that was made
        self.tools: list[str] = []
        self.deaths = 0
        self.versions: dict[UUID, int] = {}
        self.ended: dict[UUID, RunStatus] = {}
        self._sabotage = sabotage

    def run(self) -> None:
        """Carry the schedule out; raises Broken."""
        with patched(self):
            workers.WORLDS[self.loop] = self
            try:
                self.loop.run(self._live())
            finally:
                del workers.WORLDS[self.loop]
        if self.broken:
            raise Broken(self.seed, self.broken)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.loop.time())

    def note(self, what: str) -> None:
        self.trace.append(f"{self.loop.time():.4f} {what}")

    def require(self, holds: bool, promise: int, what: str) -> None:
        if not holds:
            self.note(f"BROKEN {promise}: {what}")
            self.broken.append(f"promise {promise}: {what}")

    # -- the course of it ----------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        self._build()
        self._sabotage(self)
        living = [asyncio.ensure_future(browser.live(ACTIONS)) for browser in self.browsers]
        await self._strike()
        await self.heal()
        await asyncio.wait(living, timeout=PATIENCE)
        await self._settle()
        for task in living:
            if task.done() and not task.cancelled() and task.exception():
                raise task.exception()  # type: ignore[misc]
        check_all(self)

    def _build(self) -> None:
        self.database, self.redis = Outage("the database", self.chance), Outage("Redis", self.chance)
        self.tables, self.streams = Tables(self.now), Streams(self.redis)
        self.tables.on_commit = self._committed
        self.broker = Broker(self.chance, self.settings.actors.prefetch)
        self.broker.on_ack = self._acked
        self.broker.doubles = self.broker.loses = 0.03
        self.partitions = sorted({partition_of(session_uuid(*name)) for name in NAMES})
        self.actors: list[SimActor] = []
        self.workers: list[SimWorker] = []
        self._names = 0
        for _ in range(ACTORS):
            self._start_actor()
        for _ in range(WORKERS):
            self._start_worker()
        fronts = [command_client(self.broker, Process(f"front-{n}", self.chance)) for n in range(FRONTS)]
        self.browsers = [Browser(self, user, thread, fronts) for user, thread in NAMES]

    def _start_actor(self) -> None:
        self._names += 1
        actor = SimActor(self, f"actors-{self._names}")
        self.actors.append(actor)
        actor.process.on_death = partial(self._died, actor, self.actors, self._start_actor)

    def _start_worker(self) -> None:
        self._names += 1
        worker = SimWorker(self, f"worker-{self._names}")
        self.workers.append(worker)
        worker.process.on_death = partial(self._died, worker, self.workers, self._start_worker)

    def _died(self, who: Any, among: list[Any], replace: Callable[[], None]) -> None:
        self.note(f"{who.process.name} died")
        self.deaths += 1
        among.remove(who)
        if who in self.broker.workers:
            self.broker.workers.remove(who)
        self.loop.call_later(self.chance.random(), self.broker.drop, who.process)
        self.loop.call_later(0.5 + 2 * self.chance.random(), replace)

    # -- faults --------------------------------------------------------------------------------------------------------

    async def _strike(self) -> None:
        faults = (
            *(self._kill, self._kill_soon, self._kill_soon, self._freeze_soon, self._freeze_soon, self._stop_worker),
            *(self._cut, self._broker_away, self._database_away, self._database_flaky, self._redis_away),
            *(self._empty_redis, self._stray_wakeup, self._late_command, self._steal),
        )
        for _ in range(FAULTS):
            await asyncio.sleep(self.chance.random() * 1.6)
            fault = self.chance.choice(faults)
            self.note(fault.__name__)
            fault()

    def _someone(self) -> Process:
        living = [*self.actors, *self.workers]
        return self.chance.choice(living).process if living else Process("nobody", self.chance)

    def _kill(self) -> None:
        self._someone().kill()

    def _kill_soon(self) -> None:
        process = self._someone()
        process.after(self.chance.randint(1, 80), process.kill)

    def _freeze_soon(self) -> None:
        process = self._someone()
        process.after(self.chance.randint(1, 80), partial(self._freeze, process))

    def _freeze(self, process: Process) -> None:
        process.freeze()
        self.note(f"{process.name} is frozen")
        self.loop.call_later(HEARTBEAT, lambda: process.frozen and self.broker.drop(process))
        self.loop.call_later(1 + self.chance.random() * 10, process.thaw)

    def _cut(self) -> None:
        self.broker.drop(self.chance.choice([self._someone(), *(link.process for link in self.broker.links)]))

    def _stop_worker(self) -> None:
        if self.workers:
            worker = self.chance.choice(self.workers)
            worker.process.spawn(worker.stop())

    def _broker_away(self) -> None:
        self.broker.stop()
        self.loop.call_later(self.chance.random() * 4, self._broker_back)

    def _broker_back(self) -> None:
        self.broker.up = True

    def _database_away(self) -> None:
        self.database.up = False
        self.loop.call_later(self.chance.random() * 4, setattr, self.database, "up", True)

    def _database_flaky(self) -> None:
        self.database.flaky = 0.3
        self.loop.call_later(self.chance.random() * 5, setattr, self.database, "flaky", 0.0)

    def _redis_away(self) -> None:
        self.redis.up = False
        self.loop.call_later(self.chance.random() * 5, setattr, self.redis, "up", True)

    def _empty_redis(self) -> None:
        self.streams.entries.clear()

    def _stray_wakeup(self) -> None:
        legs = list(self.tables.rows["run_legs"].values())
        if legs and self.broker.up:
            leg = self.chance.choice(legs)
            run = self.tables.rows["runs"][leg["run_id"],]
            self.broker.wake(run["session_id"], run["id"], leg["leg"])

    def _steal(self) -> None:
        """A partition changes hands and the channel of its former owner does not know it."""
        self.tables.take(self.chance.choice(self.partitions))  # for a process that dies at once

    def _late_command(self) -> None:
        """A copy of any command that took effect comes once more."""
        groups = [group for _, group, outcome in self.tables.history if outcome == "written" and group]
        if groups and self.broker.up:
            command = self.chance.choice(self.chance.choice(groups)).decided.command
            if not isinstance(command, c.FailRun):
                body = c.encode_command(command)
                self.broker.publish(partition_of(command.session_id), Message(body, None, None))

    async def heal(self) -> None:
        """From here on nothing fails any more."""
        self.note("healed")
        self.broker.doubles = self.broker.loses = 0.0
        for what in (*self.actors, *self.workers):
            what.process.thaw()
        await asyncio.sleep(6)  # what was set off before is over

    async def _settle(self) -> None:
        """Every run comes to its end, once its questions are answered."""
        deadline = self.loop.time() + PATIENCE
        while not self._quiet():
            if self.loop.time() > deadline:
                self.require(False, 1, f"not at rest: {self.unrest()}")
                return
            for browser in self.browsers:
                for call in browser.open_calls():
                    await browser.give(call, browser._name("leg"), {"n": 0})
            await asyncio.sleep(2)

    def _quiet(self) -> bool:
        return not any(self.unrest().values())

    def unrest(self) -> dict[str, Any]:
        """What is still to be done."""
        live = [row["id"] for row in self.tables.of("runs") if row.get("ended_at") is None]
        queues = sum(len(queue.ready) + sum(len(ch.unacked) for ch in queue.consumers) for queue in self.broker.queues)
        outbox = [row["kind"] for row in self.tables.of("outbox")]
        return {"runs": live, "commands": queues, "outbox": outbox}

    # -- witnesses -----------------------------------------------------------------------------------------------------

    def _committed(self, group: Sequence[Versioned], writes: Writes, foreign: frozenset[int]) -> None:
        for row in (*writes.inserts.get("sessions", {}).values(), *writes.updates.get("sessions", {}).values()):
            self.require(partition_of(row["id"]) not in foreign, 4, "a former owner of the partition has written")
            before = self.versions.get(row["id"], 0)
            self.require(row["state_version"] == before + 1, 4, f"version {before} became {row['state_version']}")
            self.versions[row["id"]] = row["state_version"]
        for versioned in group:
            decided = versioned.decided
            self.note(f"{decided.command.type} {[type(event).__name__ for event in decided.events]}")
            for event in decided.events:
                self._decided(event, versioned)

    def _decided(self, event: e.Event, versioned: Versioned) -> None:
        if isinstance(event, e.RunEnded):
            self.require(event.run_id not in self.ended, 2, f"run {event.run_id} ended twice")
            self.ended[event.run_id] = event.status
        active = versioned.decided.before.active
        if isinstance(event, e.StepsBegun) and active is not None:
            granted = active.status is not RunStatus.CANCELLING
            self.require(granted, 8, f"a step of run {event.run_id} was granted after its cancel")

    def _acked(self, message: Message) -> None:
        """An acknowledged command took effect, or was refused."""
        command = orjson.loads(message.body)
        self.note(f"ack {command['type']}")
        reply = self.replied.get(message.correlation_id or "")
        if reply is not None and reply.error is not None:
            return
        self.require(took_effect(self.tables, command), 5, f"{command['type']} was acknowledged and has had no effect")

    def provider_called(self, run_id: UUID, key: str, epoch: int) -> None:
        # A frozen attempt that does not know yet that it was superseded may still ask: its row is closed as lost.
        rows = self.tables.of("run_steps", run_id=run_id, key=key)
        done = [row for row in rows if row["status"] == "recorded" and row["epoch"] <= epoch]
        self.require(not done, 9, f"{key} of {run_id} was asked again after it was recorded")
        deleted = (run_id,) not in self.tables.rows["runs"]
        begun = (run_id, key, epoch) in self.tables.rows["llm_calls"]
        self.require(begun or deleted, 9, f"{key} of {run_id} was asked without a row")
        self.provider.append((run_id, key, epoch))

    def tool_started(self, call_id: str) -> None:
        self.require(call_id not in self.tools, 7, f"tool call {call_id} was started twice")
        self.tools.append(call_id)


@contextlib.contextmanager
def patched(world: World) -> Iterator[None]:
    """Production on the simulation's clock, ids and reads."""
    ids = random.Random(f"ids of {world.seed}")

    def new_uuid() -> UUID:
        return UUID(int=ids.getrandbits(128), version=4)

    config = SimpleNamespace(to_json=dict)
    state = random.getstate()
    random.seed(world.seed)
    with contextlib.ExitStack() as stack:
        for module in (gather, groups, attempt, conduct, run_service, commander):
            stack.enter_context(mock.patch.object(module, "utcnow", world.now))
        for name, replacement in memory_reads.READS.items():
            stack.enter_context(mock.patch.object(gather, name, replacement))
        stack.enter_context(mock.patch.object(gather, "resolve_rows", return_value=config))
        stack.enter_context(mock.patch.object(run_service, "read_brief", memory_reads.read_brief))
        stack.enter_context(mock.patch.object(run_service, "read_first_brief", memory_reads.read_first_brief))
        stack.enter_context(mock.patch.object(guard, "monotonic", world.loop.time))
        stack.enter_context(mock.patch.object(uuid, "uuid4", new_uuid))
        stack.enter_context(mock.patch.object(commander, "uuid4", new_uuid))
        stack.enter_context(workers.crew_replaced())
        for name in ("callboard_actors", "callboard_runtime"):
            stack.enter_context(_errors_noted(world, logging.getLogger(name)))
        try:
            yield
        finally:
            random.setstate(state)


class _Errors(logging.Handler):
    """What production logs as an error is a bug here: faults are warnings at most."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        trace = "".join(traceback.format_exception(record.exc_info[1])[-3:]) if record.exc_info else ""
        self._world.require(False, 5, f"{record.getMessage()[:500]} {trace}")


@contextlib.contextmanager
def _errors_noted(world: World, logger: logging.Logger) -> Iterator[None]:
    level, propagate, handler = logger.level, logger.propagate, _Errors(world)
    logger.setLevel(logging.ERROR)
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate
