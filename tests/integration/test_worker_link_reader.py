"""What a worker reads of its run, from rows as the actors write them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.config.resolver import RuntimeConfig, resolve_agent_runtime_config
from callboard_runtime.config.static import load_static
from callboard_runtime.domain.commands import StartAnswer
from callboard_runtime.domain.event_batch import ORIGIN, EventId, batch
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import PendingToolCall, StateSnapshot
from callboard_runtime.errors import NotFound, Unavailable
from callboard_runtime.persistence import tables
from callboard_runtime.persistence.database import create_engine, transaction
from callboard_runtime.persistence.run_reader import read_brief, read_first_brief

SESSION, EARLIER, RUN = uuid.UUID(int=1), uuid.UUID(int=2), uuid.UUID(int=3)


@pytest.fixture
async def engine(postgres_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(postgres_url, pool=1)
    yield engine
    await engine.dispose()


@pytest.fixture(scope="module")
def config() -> RuntimeConfig:
    return resolve_agent_runtime_config([], load_static(None))


def start(epoch: int = 5, attempt: int = 1, leg: int = 1) -> StartAnswer:
    opening = batch(epoch, 1, [{"type": "RUN_STARTED"}])
    return StartAnswer(epoch=epoch, attempt=attempt, leg=leg, opening=opening, deadline=None)


async def fill(engine: AsyncEngine, config: RuntimeConfig) -> None:
    """A session with an earlier run, and the run in question with two legs and a journal."""
    snapshot = StateSnapshot.new(
        SESSION, shared_state={"a": 1}, pending_tool_calls=(PendingToolCall(tool_call_id="c1"),)
    )
    run: dict[str, Any] = {
        "user_id": "u",
        "session_id": SESSION,
        "agent_id": "default",
        "digest": "d",
        "config": config.model_dump(mode="json"),
        "status": "running",
    }
    given = RunInput(messages=(NewMessage(message_id="m4", role="user", content="now"),), state={"s": 1})
    async with transaction(engine) as connection:

        async def put(row: Any, *values: dict[str, Any]) -> None:
            for value in values:
                await connection.execute(insert(row).values(**value))

        await put(
            tables.SessionRow,
            {"id": SESSION, "user_id": "u", "thread_id": "t", "state_snapshot": snapshot.to_json()},
        )
        await put(
            tables.RunRow,
            run | {"id": EARLIER, "client_run_id": "r0", "input": {}},
            run | {"id": RUN, "client_run_id": "r1", "input": given.model_dump(mode="json")},
        )
        await put(
            tables.RunLegRow,
            {"run_id": RUN, "leg": 1, "user_id": "u", "client_run_id": "r1", "digest": "d", "history_seq": 4},
            {"run_id": RUN, "leg": 2, "user_id": "u", "client_run_id": "r2", "digest": "e"},
        )
        await put(
            tables.MessageRow,
            _message(1, EARLIER, "user", "first"),
            _message(2, EARLIER, "assistant", "answer"),
            _message(3, EARLIER, "user", "taken back", withdrawn=True),
            _message(4, RUN, "user", "now"),
            _message(5, RUN, "assistant", "made in the first leg"),
        )
        await put(
            tables.RunStepRow,
            _step("b", 4, "recorded", result={"text": "x"}),
            _step("a", 4, "lost"),
            _step("tool:c1", 4, "unknown", kind="tool", tool_call_id="c1"),
        )
        await put(tables.EventSegmentRow, _segment(3, 1, 2), _segment(4, 1, 3), _segment(4, 4, 9), _segment(5, 1, 1))


def _message(seq: int, run: uuid.UUID, role: str, content: str, **more: Any) -> dict[str, Any]:
    return {
        "session_id": SESSION,
        "seq": seq,
        "message_id": f"m{seq}",
        "run_id": run,
        "role": role,
        "content": content,
        **more,
    }


def _step(key: str, epoch: int, status: str, **more: Any) -> dict[str, Any]:
    step = {"run_id": RUN, "key": key, "epoch": epoch, "kind": "model", "name": "n", "digest": "d", "status": status}
    return step | more


def _segment(epoch: int, first: int, last: int) -> dict[str, Any]:
    lines = "\n".join("{}" for _ in range(first, last + 1))
    place = {"session_id": SESSION, "epoch": epoch, "first_seq": first, "last_seq": last}
    return place | {"run_id": RUN, "leg": 1, "lines": lines}


async def test_a_first_attempt(engine: AsyncEngine, config: RuntimeConfig) -> None:
    await fill(engine, config)
    brief = await read_brief(engine, RUN, start(), 1000)
    assert (brief.session_id, brief.user_id, brief.thread_id, brief.leg_run_id) == (SESSION, "u", "t", "r1")
    assert brief.config == config
    assert brief.input.state == {"s": 1}
    assert [(m.role, m.content) for m in brief.history] == [
        ("user", "first"),
        ("assistant", "answer"),
        ("user", "now"),
    ]
    assert brief.journal == ()
    assert brief.shared_state == {"a": 1}
    assert [call.tool_call_id for call in brief.answers] == ["c1"]
    assert brief.log_before == EventId(4, 9)


async def test_a_later_leg_sees_the_first_ones_history_and_the_journal(
    engine: AsyncEngine, config: RuntimeConfig
) -> None:
    await fill(engine, config)
    brief = await read_brief(engine, RUN, start(epoch=6, leg=2), 1000)
    assert brief.leg_run_id == "r2"
    assert [m.content for m in brief.history] == ["first", "answer", "now"]
    assert [(row.key, row.status, row.kind) for row in brief.journal] == [
        ("b", "recorded", "model"),
        ("a", "lost", "model"),
        ("tool:c1", "unknown", "tool"),
    ]
    assert brief.journal[0].result == {"text": "x"}
    assert brief.log_before == EventId(5, 1)


async def test_a_later_attempt_gets_the_journal(engine: AsyncEngine, config: RuntimeConfig) -> None:
    await fill(engine, config)
    assert len((await read_brief(engine, RUN, start(attempt=2), 1000)).journal) == 3


async def test_the_budget_limits_the_history(engine: AsyncEngine, config: RuntimeConfig) -> None:
    await fill(engine, config)
    assert [m.content for m in (await read_brief(engine, RUN, start(), 5)).history] == ["now"]


async def test_the_first_epoch_has_nothing_before_it(engine: AsyncEngine, config: RuntimeConfig) -> None:
    await fill(engine, config)
    assert (await read_brief(engine, RUN, start(epoch=3), 1000)).log_before == ORIGIN


async def test_a_deleted_run_is_not_found(engine: AsyncEngine) -> None:
    with pytest.raises(NotFound):
        await read_brief(engine, uuid.uuid4(), start(), 1000)


async def test_an_outage_reads_as_unavailable() -> None:
    away = create_engine("postgresql+asyncpg://u:p@127.0.0.1:1/none", pool=0)
    with pytest.raises(Unavailable):
        await read_brief(away, RUN, start(), 1000)


async def test_a_run_that_nobody_attempted_can_be_read_before_its_grant(
    engine: AsyncEngine, config: RuntimeConfig
) -> None:
    await fill(engine, config)
    ahead = await read_first_brief(engine, RUN, 1000)
    granted = await read_brief(engine, RUN, start(epoch=6), 1000)
    assert ahead is not None
    assert ahead == granted


async def test_a_run_that_was_attempted_or_is_gone_is_not_read_ahead(
    engine: AsyncEngine, config: RuntimeConfig
) -> None:
    await fill(engine, config)
    row = {"attempt_id": uuid.uuid4(), "run_id": RUN, "session_id": SESSION, "leg": 1, "epoch": 5, "process": "w"}
    async with transaction(engine) as connection:
        await connection.execute(insert(tables.RunAttemptRow).values(**row))
    assert await read_first_brief(engine, RUN, 1000) is None
    assert await read_first_brief(engine, uuid.uuid4(), 1000) is None
