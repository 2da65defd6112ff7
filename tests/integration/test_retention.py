"""What is past its time goes, in the session's own turn, and nothing that a live run, or a young one, still needs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest

from callboard_actors import retention
from callboard_runtime.domain import commands as c
from callboard_runtime.domain.ids import session_uuid, utcnow
from callboard_runtime.domain.state_snapshot import RunStatus
from callboard_runtime.settings import RetentionSettings
from integration.actor_harness import USER, Actor, Worker, accept, actor, start

SESSION = session_uuid(USER, "t1")
OLD = utcnow() - timedelta(days=2)
CUT = utcnow() - timedelta(days=1)
TABLES = ("event_segments", "run_steps", "llm_calls", "run_attempts", "run_legs", "runs")


@pytest.fixture
async def it(postgres_url: str, redis_url: str, redis_prefix: str) -> AsyncIterator[Actor]:
    async with actor(postgres_url, redis_url, redis_prefix) as it:
        yield it


async def begin(it: Actor, run_id: str) -> Worker:
    """A run with a step of its journal, and some events."""
    await it.send(accept(run_id))
    worker = Worker.of(run_id, await it.send(start(run_id)))
    step = c.StepBegin(key="s1", kind="model", name="answer", digest="d", provider="p", model="m")
    await it.send(worker.command(c.BeginStep, steps=(step,)))
    return worker


async def ended(it: Actor, run_id: str, *, at: datetime | None = None) -> None:
    worker = await begin(it, run_id)
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    if at is not None:
        async with it.engine.begin() as db:
            await db.exec_driver_sql("UPDATE runs SET ended_at = $1 WHERE client_run_id = $2", (at, run_id))


async def held(it: Actor) -> dict[str, set[object]]:
    """The runs that each table still has something of."""
    found: dict[str, set[object]] = {}
    for table in TABLES:
        column = "id" if table == "runs" else "run_id"
        rows = await it.rows(f"SELECT client_run_id AS r FROM runs WHERE id IN (SELECT {column} FROM {table})")
        found[table] = {row["r"] for row in rows}
    return found


async def prune(it: Actor, **before: datetime) -> None:
    await it.send(c.PruneSession(session_id=SESSION, **before))


async def test_events_go_from_the_beginning_of_the_log(it: Actor) -> None:
    await ended(it, "old", at=OLD)
    await ended(it, "young")
    await begin(it, "live")
    before = await held(it)
    await prune(it, events_before=CUT)
    assert await held(it) == before | {"event_segments": {"young", "live"}}
    await prune(it, events_before=utcnow() + timedelta(days=1))
    assert (await held(it))["event_segments"] == {"live"}, "a live run keeps its events, however old"


async def test_the_log_never_gets_a_hole(it: Actor) -> None:
    """An old run behind a young one waits for it."""
    await ended(it, "young")
    await ended(it, "old", at=OLD)
    await prune(it, events_before=CUT)
    assert (await held(it))["event_segments"] == {"young", "old"}


async def test_journals_go_and_bills_stay(it: Actor) -> None:
    await ended(it, "old", at=OLD)
    await begin(it, "live")
    before = await held(it)
    await prune(it, journals_before=CUT)
    assert await held(it) == before | {"run_steps": {"live"}}


async def test_runs_go_whole_and_the_conversation_stays(it: Actor) -> None:
    await ended(it, "old", at=OLD)
    await ended(it, "young")
    [usage] = await it.rows("SELECT total_tokens, message_count FROM sessions")
    await prune(it, runs_before=CUT)
    assert set(map(frozenset, (await held(it)).values())) == {frozenset({"young"})}
    segments = await it.rows("SELECT DISTINCT run_id FROM event_segments")
    assert len(segments) == 1, "its events went along"
    assert await it.rows("SELECT total_tokens, message_count FROM sessions") == [usage]
    assert [row["message_id"] for row in await it.rows("SELECT message_id FROM messages ORDER BY seq")] == [
        "m-old",
        "m-young",
    ]


async def test_a_session_goes_on_after_it_was_pruned(it: Actor) -> None:
    await ended(it, "old", at=OLD)
    await prune(it, events_before=CUT, journals_before=CUT, runs_before=CUT)
    await it.take()
    await ended(it, "next")
    assert (await held(it))["event_segments"] == {"next"}
    [row] = await it.rows("SELECT min(epoch) AS first FROM event_segments")
    assert row["first"] == 2, "epochs are not used again"


async def test_a_commit_removes_a_bounded_number(it: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    for number in range(3):
        await ended(it, f"r{number}", at=OLD + timedelta(seconds=number))
    await prune(it, runs_before=CUT)
    assert (await held(it))["runs"] == {"r2"}
    await prune(it, runs_before=CUT)
    assert (await held(it))["runs"] == set()


async def test_all_journals_go_although_the_runs_stay(it: Actor) -> None:
    """Runs that have lost their journals do not stand in the way of the next ones."""
    await ended(it, "first", at=OLD)
    await many_more_runs(it, "first", retention.AT_ONCE + 50)
    kept = RetentionSettings(journals=24 * 3600.0)
    looks = [await look_and_prune(it, kept) for _ in range(3)]
    assert looks == [(1, True), (1, False), (0, False)], "nothing is due any more, and nothing is left over"
    assert await it.rows("SELECT 1 FROM run_steps") == []
    assert len(await it.rows("SELECT 1 FROM runs")) == retention.AT_ONCE + 51


async def look_and_prune(it: Actor, kept: RetentionSettings) -> tuple[int, bool]:
    async with it.engine.connect() as db:
        commands, more = await retention.due(db, kept)
    for command in commands:
        await it.send(command)
    return len(commands), more


async def many_more_runs(it: Actor, like: str, count: int) -> None:
    """Younger runs with journals, in the same session."""
    copies = (
        "INSERT INTO runs (id, user_id, client_run_id, session_id, agent_id, digest, input, config, status, ended_at)"
        " SELECT gen_random_uuid(), user_id, 'copy-' || n, session_id, agent_id, digest, input, config, status,"
        " ended_at + make_interval(secs => n) FROM runs, generate_series(1, $1::int) n WHERE client_run_id = $2"
    )
    journals = (
        "INSERT INTO run_steps (run_id, key, epoch, kind, name, digest, status)"
        " SELECT id, 's', 1, 'model', 'answer', 'd', 'recorded' FROM runs WHERE client_run_id LIKE 'copy-%'"
    )
    async with it.engine.begin() as db:
        await db.exec_driver_sql(copies, (count, like))
        await db.exec_driver_sql(journals)


async def others(it: Actor, like: str, count: int, *, later: timedelta) -> set[object]:
    """Sessions that have a run like this one, with events and a journal, ended so much later."""
    sessions = (
        "INSERT INTO sessions (id, user_id, thread_id)"
        " SELECT gen_random_uuid(), 'eve', n::text FROM generate_series(1, $1::int) n RETURNING id"
    )
    runs = (
        "INSERT INTO runs (id, user_id, client_run_id, session_id, agent_id, digest, input, config, status, ended_at)"
        " SELECT gen_random_uuid(), 'eve', s.id::text, s.id, agent_id, digest, input, config, r.status, ended_at + $1"
        " FROM runs r, sessions s WHERE client_run_id = $2 AND s.user_id = 'eve'"
    )
    events = (
        "INSERT INTO event_segments (session_id, epoch, first_seq, last_seq, run_id, leg, lines)"
        " SELECT session_id, 1, 1, 1, id, 1, '' FROM runs WHERE user_id = 'eve'"
    )
    journals = (
        "INSERT INTO run_steps (run_id, key, epoch, kind, name, digest, status)"
        " SELECT id, 's', 1, 'model', 'answer', 'd', 'recorded' FROM runs WHERE user_id = 'eve'"
    )
    async with it.engine.begin() as db:
        found = set((await db.exec_driver_sql(sessions, (count,))).scalars())
        await db.exec_driver_sql(runs, (later, like))
        for statement in (events, journals):
            await db.exec_driver_sql(statement)
    return found


async def due_with(it: Actor, kept: RetentionSettings) -> tuple[c.PruneSession, bool]:
    async with it.engine.connect() as db:
        [command], more = await retention.due(db, kept)
    return command, more


DAY = 24 * 3600.0
KINDS = (RetentionSettings(events=DAY), RetentionSettings(journals=DAY), RetentionSettings(runs=DAY))


async def test_the_oldest_goes_first(it: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "SESSIONS", 1)
    await ended(it, "oldest", at=OLD)
    async with it.engine.begin() as db:
        await db.exec_driver_sql("UPDATE event_segments SET created_at = created_at - interval '1 hour'")
    await others(it, "oldest", 20, later=timedelta(hours=1))
    for kept in KINDS:
        command, more = await due_with(it, kept)
        assert command.session_id == SESSION
        assert more


async def test_a_session_that_must_wait_takes_no_place_in_a_look(it: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old run is behind a young one; a look full of such sessions would keep all others from their turn."""
    monkeypatch.setattr(retention, "SESSIONS", 1)
    await ended(it, "young")
    await ended(it, "old", at=OLD)
    theirs = await others(it, "old", 1, later=timedelta(hours=1))
    for kept in (RetentionSettings(events=DAY), RetentionSettings(runs=DAY)):
        command, _ = await due_with(it, kept)
        assert {command.session_id} == theirs


async def test_no_run_goes_before_its_events(it: Actor, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run may have had more attempts than a commit removes epochs; nobody would look for what is left of it."""
    monkeypatch.setattr(retention, "AT_ONCE", 2)
    await begin(it, "r1")
    await it.send(start("r1"))
    worker = Worker.of("r1", await it.send(start("r1")))
    await it.send(worker.command(c.FinishRun, status=RunStatus.SUCCEEDED))
    async with it.engine.begin() as db:
        await db.exec_driver_sql("UPDATE runs SET ended_at = $1", (OLD,))
    kept = RetentionSettings(runs=DAY)
    looks = [await look_and_prune(it, kept) for _ in range(3)]
    assert [found for found, _ in looks] == [1, 1, 0]
    assert await it.rows("SELECT 1 FROM runs") == await it.rows("SELECT 1 FROM event_segments") == []


async def test_an_unknown_session_is_left_alone(it: Actor) -> None:
    await prune(it, runs_before=CUT)
    assert await it.rows("SELECT 1 FROM sessions") == []


async def test_finds_what_is_due_and_nothing_else(it: Actor) -> None:
    await ended(it, "old", at=OLD)
    await ended(it, "young")
    day = 24 * 3600.0
    async with it.engine.connect() as db:
        assert await retention.due(db, RetentionSettings()) == ([], False)
        [command], more = await retention.due(db, RetentionSettings(events=day, runs=3 * day, journals=day))
        assert command.session_id == SESSION
        assert not more
        assert command.runs_before is None, "nothing is that old"
        assert command.events_before is not None
        assert abs(command.events_before - (utcnow() - timedelta(days=1))) < timedelta(minutes=5)
    await it.send(command)
    async with it.engine.connect() as db:
        assert await retention.due(db, RetentionSettings(events=day, runs=3 * day, journals=day)) == ([], False)


async def test_old_audit_rows_go(it: Actor) -> None:
    await it.send(accept("r1"))
    await it.send(c.CancelRun(session_id=SESSION, user_id=USER, run_id="r1", not_after=utcnow() + timedelta(minutes=1)))
    async with it.engine.begin() as db:
        assert not await retention.forget_audit(db, RetentionSettings(audit=60))
    assert len(await it.rows("SELECT 1 FROM audit_log")) == 1
    async with it.engine.begin() as db:
        await db.exec_driver_sql("UPDATE audit_log SET at = at - interval '2 minutes'")
        await retention.forget_audit(db, RetentionSettings(audit=60))
    assert await it.rows("SELECT 1 FROM audit_log") == []
