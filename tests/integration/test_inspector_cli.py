"""The commands for operators on a real database: what they list, what they note, and how they refuse."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest
from sqlalchemy import insert, select, update

from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.persistence import tables as t
from callboard_runtime.settings import Settings
from command_line import AsyncRun, async_runner

from .http_harness import Backstage

NOWHERE = "127.0.0.1:1"


@pytest.fixture
def run(settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> AsyncRun:
    """Run `callboard …` in a thread; returns exit code, output and errors."""
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", settings.required_database_url())
    monkeypatch.setenv("CALLBOARD_AMQP_URL", settings.required_amqp_url())
    return async_runner(monkeypatch, capsys)


@pytest.fixture
async def some_runs(stage: Backstage) -> None:
    await stage.add_run("thread-1", "run-1", "ada", "succeeded")
    await stage.add_run("thread-2", "run-2", "ada", "failed", error_code="ATTEMPTS_EXHAUSTED")
    await stage.add_run("thread-1", "run-1", "bob", "queued", agent_id="demo")
    await stage.execute(update(t.SessionRow).values(title="a private title"))


@pytest.mark.usefixtures("some_runs")
async def test_lists_are_tables_for_people_and_json_for_programs(run: AsyncRun) -> None:
    code, table, _ = await run("runs", "list", "--status", "failed,queued")
    heading, *rows = table.splitlines()
    assert code == 0
    assert heading.split()[:5] == ["run", "session", "user", "agent", "status"]
    assert [row.split()[:4] for row in rows] == [
        ["run-1", "thread-1", "bob", "demo"],
        ["run-2", "thread-2", "ada", "default"],
    ]
    assert "failed ATTEMPTS_EXHAUSTED" in rows[1]
    code, text, _ = await run("sessions", "list", "--user", "ada", "--limit", "1", "--json")
    page = json.loads(text)
    assert (code, len(page["sessions"])) == (0, 1)
    code, text, _ = await run("sessions", "list", "--user", "ada", "--json", "--after", page["next"])
    assert json.loads(text)["next"] is None
    assert "a private title" not in table + text


async def test_deliveries_to_webhooks_are_listed_with_what_was_answered(run: AsyncRun, stage: Backstage) -> None:
    leg = await stage.add_run("thread-1", "run-1", "ada", "failed")
    ids = {name: uuid.uuid4() for name in ("id", "event_id", "endpoint")}
    whose = {"session_id": leg.key.session_id, "run_id": leg.key.run_id}
    said = {"url": "https://h/in", "type": "run.failed", "attempts": 2, "last_status": 502, "last_error": "Bad Gateway"}
    await stage.execute(insert(t.WebhookDeliveryRow).values(**ids, **whose, **said))
    code, table, _ = await run("webhooks", "list")
    assert code == 0
    assert table.splitlines()[1].split()[:8] == [
        *("run.failed", "https://h/in", "open", "2", "502", "Bad", "Gateway", "run-1")
    ]
    code, text, _ = await run("webhooks", "list", "--status", "delivered,given_up", "--json")
    assert (code, json.loads(text)) == (0, {"deliveries": [], "next": None})
    code, _, error = await run("webhooks", "list", "--status", "late")
    assert (code, "write of open, delivered, given_up" in error) == (2, True)


@pytest.mark.usefixtures("some_runs")
async def test_what_is_shown_is_noted(run: AsyncRun, stage: Backstage) -> None:
    code, told, _ = await run("sessions", "show", "thread-2")
    assert code == 0
    assert "a private title" in told
    assert "run-2" in told
    code, told, _ = await run("runs", "show", str(run_uuid("ada", "run-1")), "--json")
    assert json.loads(told)["run"]["user_id"] == "ada"
    async with stage.engine.connect() as connection:
        rows: list[Any] = list(await connection.execute(select(t.AuditRow).order_by(t.AuditRow.at)))
    assert [(row.action, row.session_id, row.run_id) for row in rows] == [
        ("operator_read", session_uuid("ada", "thread-2"), None),
        ("operator_read", session_uuid("ada", "thread-1"), run_uuid("ada", "run-1")),
    ]
    assert all(row.actor.startswith("cli:") for row in rows)


@pytest.mark.usefixtures("some_runs")
@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("runs", "show", "run-3"), 1, "did you mean run-"),
        (("runs", "show", "run-1"), 2, "several users have a run run-1 (ada, bob"),
        (("sessions", "show", "thread-2", "--user", "bob"), 1, "there is no session thread-2 of user bob"),
        (("runs", "list", "--session", "threat-2"), 1, "did you mean thread-2"),
        (("runs", "list", "--status", "done"), 2, "--status: 'done' is none; write of queued, running"),
        (("runs", "list", "--newer-than", "soon"), 2, "--newer-than: must be an age"),
        (("runs", "list", "--after", "x"), 2, "after: not a position"),
        (("approvals", "approve", "int_1"), 1, "no approval int_1 is open; `callboard approvals list` prints"),
        (("approvals", "reject", "int_1", "--url", "ftp://x"), 1, "no approval int_1 is open"),
    ],
)
async def test_what_is_not_there_is_said_with_what_was_probably_meant(
    run: AsyncRun, args: tuple[str, ...], code: int, told: str
) -> None:
    ended, _, error = await run(*args)
    assert ended == code
    assert told in error
    assert "Traceback" not in error


@pytest.mark.usefixtures("some_runs")
async def test_one_of_several_users_is_named(run: AsyncRun) -> None:
    code, told, _ = await run("runs", "show", "run-1", "--user", "bob")
    assert code == 0
    assert "demo" in told


async def test_the_status_says_what_is_wrong_and_ends_with_one(run: AsyncRun, monkeypatch: pytest.MonkeyPatch) -> None:
    code, told, _ = await run("status")
    assert code == 1
    assert "problem: no worker process is alive, so accepted runs wait: start `callboard worker`" in told
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", f"postgresql://u:hunter2@{NOWHERE}/d")
    monkeypatch.setenv("CALLBOARD_AMQP_URL", f"amqp://u:hunter2@{NOWHERE}/")
    monkeypatch.setenv("CALLBOARD_REDIS_URL", f"redis://:hunter2@{NOWHERE}/0")
    code, told, error = await run("status", "--json")
    status = json.loads(told)
    assert code == 1
    assert [service["reachable"] for service in status["services"]] == [False, False, False]
    assert len(status["problems"]) == 3
    assert "hunter2" not in told + error


async def test_an_outage_is_an_error_with_a_hint(run: AsyncRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CALLBOARD_DATABASE_URL", f"postgresql://u:hunter2@{NOWHERE}/d")
    code, _, error = await run("sessions", "list")
    assert code == 1
    assert error.splitlines()[0].startswith("error: the database is away")
    assert error.splitlines()[1].startswith("hint: is the server running")
