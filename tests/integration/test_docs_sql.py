"""Every SQL statement of the documentation runs on a migrated database that holds one of everything."""

from datetime import timedelta
from uuid import uuid4

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from callboard_runtime.domain.ids import new_id, session_uuid, utcnow
from callboard_runtime.domain.state_snapshot import PendingToolCall, SessionStatus, StateSnapshot
from callboard_runtime.persistence import tables as t
from callboard_runtime.persistence.database import create_engine
from unit import docs_pages as docs

STATEMENTS = [block for page in docs.pages() for block in docs.blocks(page, "sql")]
LONG_AGO = utcnow() - timedelta(minutes=5)
SESSION = session_uuid("ada", "t1")


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: " ".join(statement.split()[:6]))
async def test_a_statement_of_the_documentation_finds_something(postgres_url: str, statement: str) -> None:
    engine = create_engine(postgres_url)
    async with engine.begin() as connection:
        await _fill(connection)
        result = await connection.execute(text(statement.strip().rstrip(";")))
        found = result.fetchall() if result.returns_rows else result.rowcount
    await engine.dispose()
    assert found


async def test_the_statement_about_stuck_runs_tells_what_is_behind_them(postgres_url: str) -> None:
    [statement] = [statement for statement in STATEMENTS if "AS wakeups" in statement]
    engine = create_engine(postgres_url)
    async with engine.begin() as connection:
        await _fill(connection)
        [row] = (await connection.execute(text(statement.strip().rstrip(";")))).mappings()
    await engine.dispose()
    assert (row["status"], row["process"], row["listed"], row["wakeups"]) == ("running", "worker-1", True, 1)


async def _fill(connection: AsyncConnection) -> None:
    """A session with a run that a worker holds, one that failed, a pending call, and a row everywhere else."""
    attempt, run, failed = new_id(), uuid4(), uuid4()
    call = PendingToolCall(tool_call_id="pay", tool_name="pay", expires_at=utcnow())
    snapshot = StateSnapshot.new(SESSION, status=SessionStatus.AWAITING_INPUT, pending_tool_calls=(call,))
    base = {"user_id": "ada", "session_id": SESSION, "agent_id": "default", "digest": "d", "input": {}, "config": {}}
    base["created_at"] = LONG_AGO
    session = {"id": SESSION, "user_id": "ada", "thread_id": "t1", "status": "awaiting_input"}
    held = {"attempt_id": attempt, "run_id": run, "session_id": SESSION, "leg": 1, "epoch": 1, "process": "worker-1"}
    waits = {"kind": "wakeup", "partition": 1, "session_id": SESSION, "run_id": run, "user_id": "ada"}
    asked = {"run_id": run, "key": "k", "epoch": 1, "session_id": SESSION, "stage": "answer", "provider": "p"}
    told = {"event_id": new_id(), "endpoint": new_id(), "url": "https://a.example", "body": {}, "type": "run.failed"}
    approved = {"actor": "ada", "action": "tool_call.approved"}
    rows: list[tuple[type[t.Base], dict[str, object]]] = [
        (t.SessionRow, session | {"state_snapshot": snapshot.to_json()}),
        (t.RunRow, base | {"id": run, "client_run_id": "r1", "status": "running"}),
        (
            t.RunRow,
            base
            | {"id": failed, "client_run_id": "r2", "status": "failed", "error_code": "RUN_DEADLINE"}
            | {"ended_at": utcnow()},
        ),
        (t.RunAttemptRow, held),
        (t.ProcessRow, {"id": "worker-1", "kind": "worker", "host": "h", "slots": 3, "attempts": [str(attempt)]}),
        (t.OutboxRow, waits | {"id": new_id(), "payload": {"leg": 1}}),
        (t.LlmCallRow, asked | {"model": "m", "status": "begun", "begun_at": utcnow()}),
        (
            t.WebhookDeliveryRow,
            told | {"id": new_id(), "session_id": SESSION, "run_id": failed, "given_up_at": utcnow()},
        ),
        (t.AuditRow, approved | {"id": new_id(), "at": utcnow()}),
        (t.AuditRow, approved | {"id": new_id(), "at": utcnow() - timedelta(days=500)}),
    ]
    for table, row in rows:
        await connection.execute(t.Base.metadata.tables[table.__tablename__].insert().values(row))
