"""The sweeper on seeded rows: which commands it sends, to whom, how often, and when it holds back."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_actors import retention
from callboard_actors import sweeper as sweeper_module
from callboard_actors.sweeper import Sweeper
from callboard_runtime.domain.commands import Command, EnforceDeadline, ExpireToolCalls, ReapAttempt
from callboard_runtime.domain.state_snapshot import PendingToolCall, StateSnapshot, ToolCallStatus
from callboard_runtime.errors import Unavailable
from callboard_runtime.persistence.database import create_engine
from callboard_runtime.settings import ActorSettings, RetentionSettings, Settings, WorkerSettings
from services import TcpProxy
from waiting import until

QUICK = Settings(actors=ActorSettings(sweep=0.05, silent_after=10), worker=WorkerSettings(heartbeat=0.1))


class Told:
    """Takes commands as the broker would; fails while it is away."""

    def __init__(self) -> None:
        self.commands: list[Command] = []
        self.away = False

    async def tell(self, command: Command) -> None:
        if self.away:
            raise Unavailable("the broker is away")
        self.commands.append(command)


class Rows:
    """Seeds what the sweeper looks at; times are seconds ago."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine

    async def execute(self, statement: str, **values: object) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(text(statement), values)

    async def scalar(self, statement: str, **values: object) -> Any:
        async with self.engine.connect() as connection:
            return (await connection.execute(text(statement), values)).scalar()

    async def process(self, name: str, *attempts: uuid.UUID, beat: float = 0) -> None:
        await self.execute(
            "INSERT INTO processes (id, kind, host, attempts, beat_at)"
            " VALUES (:n, 'worker', 'h', CAST(:a AS jsonb), now() - make_interval(secs => :b))",
            n=name,
            a=orjson.dumps([str(attempt) for attempt in attempts]).decode(),
            b=beat,
        )

    async def run(
        self, status: str = "running", *, deadline: float | None = None, cancel_by: float | None = None
    ) -> uuid.UUID:
        run, session = uuid.uuid4(), uuid.uuid4()
        await self.execute(
            "INSERT INTO sessions (id, user_id, thread_id) VALUES (:s, 'u', :t)", s=session, t=str(session)
        )
        await self.execute(
            "INSERT INTO runs (id, user_id, client_run_id, session_id, agent_id, digest, input, config, status,"
            " deadline, cancel_by) VALUES (:r, 'u', :t, :s, 'default', '', '{}', '{}', :status,"
            " now() - make_interval(secs => :d), now() - make_interval(secs => :c))",
            r=run,
            t=str(run),
            s=session,
            status=status,
            d=deadline,
            c=cancel_by,
        )
        return run

    async def attempt(self, run: uuid.UUID, process: str, *, started: float, ended: bool = False) -> uuid.UUID:
        attempt = uuid.uuid4()
        await self.execute(
            "INSERT INTO run_attempts (attempt_id, run_id, session_id, leg, epoch, process, started_at, ended_at)"
            " SELECT :a, id, session_id, 1, 1, :p, now() - make_interval(secs => :s), CASE WHEN :e THEN now() END"
            " FROM runs WHERE id = :r",
            a=attempt,
            r=run,
            p=process,
            s=started,
            e=ended,
        )
        return attempt

    async def paused(self, *calls: PendingToolCall) -> uuid.UUID:
        run = await self.run("awaiting_input")
        session = await self.scalar("SELECT session_id FROM runs WHERE id = :r", r=run)
        snapshot = StateSnapshot.new(session, pending_tool_calls=calls).to_json()
        await self.execute(
            "UPDATE sessions SET state_snapshot = CAST(:j AS jsonb) WHERE id = :s",
            j=orjson.dumps(snapshot).decode(),
            s=session,
        )
        return session


@pytest.fixture
async def rows(postgres_url: str) -> AsyncIterator[Rows]:
    engine = create_engine(postgres_url)
    yield Rows(engine)
    await engine.dispose()


async def swept(rows: Rows, told: Told, settings: Settings = QUICK) -> list[Command]:
    """One look of a leader whose grace is over."""
    sweeper = Sweeper(rows.engine, settings, told)
    sweeper._swept_at = asyncio.get_running_loop().time()  # pyright: ignore[reportPrivateUsage]
    await _sweep(rows, sweeper)
    return told.commands


async def _sweep(rows: Rows, sweeper: Sweeper) -> None:
    async with rows.engine.connect() as connection:
        await sweeper.sweep(await connection.execution_options(isolation_level="AUTOCOMMIT"))


def subjects(commands: list[Command]) -> set[uuid.UUID]:
    return {command.attempt_id for command in commands if isinstance(command, ReapAttempt)}


async def test_reaps_attempts_whose_process_is_silent_gone_or_does_not_list_them(rows: Rows) -> None:
    silent = await rows.attempt(await rows.run(), "silent", started=60)
    gone = await rows.attempt(await rows.run("cancelling"), "gone", started=60)
    forgotten = await rows.attempt(await rows.run(), "alive", started=60)
    await rows.process("silent", silent, beat=11)
    await rows.process("alive", beat=1)
    assert subjects(await swept(rows, Told())) == {silent, gone, forgotten}


async def test_leaves_the_living_the_young_and_the_ended_alone(rows: Rows) -> None:
    listed = await rows.attempt(await rows.run(), "alive", started=60)
    await rows.attempt(await rows.run(), "alive", started=5)  # too young to be listed
    await rows.attempt(await rows.run(), "newborn", started=0)  # its process has not beaten yet
    await rows.attempt(await rows.run(), "gone", started=60, ended=True)
    for status in ("succeeded", "awaiting_input", "queued"):
        await rows.attempt(await rows.run(status), "gone", started=60)
    await rows.process("alive", listed, beat=9)
    assert await swept(rows, Told()) == []


async def test_enforces_deadlines_and_the_bound_of_a_cancel(rows: Rows) -> None:
    late = {await rows.run(status, deadline=1) for status in ("queued", "running", "cancelling")}
    late.add(await rows.run("cancelling", deadline=-60, cancel_by=1))
    await rows.run("running", deadline=-60)
    await rows.run("succeeded", deadline=1)
    await rows.run("awaiting_input", deadline=1)
    commands = await swept(rows, Told())
    assert {command.run_id for command in commands if isinstance(command, EnforceDeadline)} == late
    assert len(commands) == len(late)


async def test_expires_open_calls_of_paused_runs_only(rows: Rows) -> None:
    now = await rows.scalar("SELECT now()")
    past, future = now.replace(year=now.year - 1), now.replace(year=now.year + 1)
    expired = await rows.paused(
        PendingToolCall(tool_call_id="1", expires_at=future), PendingToolCall(tool_call_id="2", expires_at=past)
    )
    await rows.paused(PendingToolCall(tool_call_id="1", expires_at=future))
    await rows.paused(PendingToolCall(tool_call_id="1", expires_at=past, status=ToolCallStatus.APPROVED))
    await rows.paused()
    assert await swept(rows, Told()) == [ExpireToolCalls(session_id=expired)]


async def test_the_calls_that_expired_first_come_first(rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    now = await rows.scalar("SELECT now()")

    def call(minutes: int) -> PendingToolCall:
        return PendingToolCall(tool_call_id=str(minutes), expires_at=now - timedelta(minutes=minutes))

    sessions = [await rows.paused(call(minutes), call(1)) for minutes in (2, 6, 4, 3, 7, 5)]
    monkeypatch.setattr(sweeper_module, "BATCH", 3)
    first = [ExpireToolCalls(session_id=sessions[number]) for number in (4, 1, 5)]
    assert await swept(rows, Told()) == first


async def test_forgets_processes_that_are_silent_for_an_hour(rows: Rows) -> None:
    await rows.process("old", beat=3700)
    await rows.process("recent", beat=3500)
    await swept(rows, Told())
    assert await rows.scalar("SELECT string_agg(id, ',') FROM processes") == "recent"


async def test_looks_again_soon_while_more_is_past_its_time_than_one_look_takes(
    rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "SESSIONS", 2)
    monkeypatch.setattr(retention, "SOON", 0.0)
    for _ in range(3):
        await rows.run("succeeded")
    await rows.execute("UPDATE runs SET ended_at = now() - interval '1 hour'")
    told = Told()
    sweeper = Sweeper(rows.engine, QUICK.model_copy(update={"retention": RetentionSettings(runs=60)}), told)
    for expected in (2, 3, 3):
        await _sweep(rows, sweeper)
        assert len(told.commands) == expected
        pruned = [str(command.session_id) for command in told.commands]
        await rows.execute("DELETE FROM runs WHERE session_id::text = ANY(:pruned)", pruned=pruned)
        if expected == 3:
            await rows.run("succeeded")
            await rows.execute("UPDATE runs SET ended_at = now() - interval '1 hour'")  # waits for the usual time


@pytest.mark.parametrize(
    ("most", "table", "seed"),
    [
        (
            "AUDIT_ROWS",
            "audit_log",
            "INSERT INTO audit_log (id, actor, action, at)"
            " SELECT gen_random_uuid(), 'u', 'x', now() - make_interval(secs => :age) FROM generate_series(1, :count)",
        ),
        (
            "CLAIMS",
            "command_claims",
            "INSERT INTO command_claims (id, session_id, body, created_at)"
            " SELECT gen_random_uuid(), gen_random_uuid(), '', now() - make_interval(secs => :age)"
            " FROM generate_series(1, :count)",
        ),
    ],
)
async def test_forgets_a_bounded_number_of_rows_at_once_and_the_rest_soon(
    rows: Rows, monkeypatch: pytest.MonkeyPatch, most: str, table: str, seed: str
) -> None:
    monkeypatch.setattr(retention, most, 2)
    monkeypatch.setattr(retention, "SOON", 0.0)
    hour = retention.CLAIMS_KEPT
    await rows.execute(seed, age=hour + 60, count=5)
    await rows.execute(seed, age=hour - 60, count=1)
    kept = RetentionSettings(audit=hour)
    sweeper = Sweeper(rows.engine, QUICK.model_copy(update={"retention": kept}), Told())
    for left in (4, 2, 1):
        await _sweep(rows, sweeper)
        assert await rows.scalar(f"SELECT count(*) FROM {table}") == left
    await rows.execute(seed, age=hour + 60, count=1)
    await _sweep(rows, sweeper)
    assert await rows.scalar(f"SELECT count(*) FROM {table}") == 2, "which waits for the usual time"


async def test_says_a_thing_once_until_it_has_had_time_to_act(rows: Rows) -> None:
    await rows.run("running", deadline=1)
    told = Told()
    sweeper = Sweeper(rows.engine, QUICK, told)
    told.away = True
    await _sweep(rows, sweeper)
    told.away = False
    for _ in range(5):
        await _sweep(rows, sweeper)
    assert len(told.commands) == 1


async def test_one_of_several_sweeps_and_another_follows_it(rows: Rows, postgres_url: str) -> None:
    told = [Told(), Told()]
    engines = [create_engine(postgres_url) for _ in told]
    first, second = (
        asyncio.create_task(Sweeper(engine, QUICK, to).run()) for engine, to in zip(engines, told, strict=True)
    )
    await rows.run("running", deadline=1)
    await until(lambda: told[0].commands or told[1].commands)
    leader, follower = (0, 1) if told[0].commands else (1, 0)
    await rows.run("running", deadline=1)
    await until(lambda: len(told[leader].commands) == 2)
    assert told[follower].commands == []
    (first, second)[leader].cancel()
    await asyncio.gather((first, second)[leader], return_exceptions=True)
    third = await rows.run("running", deadline=1)
    await until(lambda: any(getattr(c, "run_id", None) == third for c in told[follower].commands))
    (first, second)[follower].cancel()
    await asyncio.gather(first, second, return_exceptions=True)
    for engine in engines:
        await engine.dispose()


async def test_after_an_outage_the_living_are_given_time_to_be_heard(
    rows: Rows, postgres_url: str, tcp_proxy: Callable[[str], Awaitable[TcpProxy]]
) -> None:
    attempt = await rows.attempt(await rows.run(), "w", started=60)
    await rows.process("w", attempt, beat=0)
    slow = Settings(actors=ActorSettings(sweep=0.05, silent_after=10), worker=WorkerSettings(heartbeat=1))
    proxy = await tcp_proxy(postgres_url)
    engine, told = create_engine(proxy.url(postgres_url)), Told()
    sweeping = asyncio.create_task(Sweeper(engine, slow, told).run())
    witness = await rows.run("running", deadline=1)
    await until(lambda: told.commands)
    await proxy.refuse()
    await rows.execute("UPDATE processes SET beat_at = now() - interval '1 minute'")  # nobody could be heard
    told.commands.clear()
    second = await rows.run("running", deadline=1)
    await proxy.accept()
    await until(lambda: any(getattr(c, "run_id", None) == second for c in told.commands))
    assert subjects(told.commands) == set(), "it swept, and reaped nobody"
    await rows.execute("UPDATE processes SET beat_at = now()")
    third = await rows.attempt(await rows.run(), "gone", started=60)
    await until(lambda: subjects(told.commands))
    assert subjects(told.commands) == {third}
    assert Counter(type(c).__name__ for c in told.commands)["ReapAttempt"] == 1
    assert witness != second
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    await engine.dispose()
