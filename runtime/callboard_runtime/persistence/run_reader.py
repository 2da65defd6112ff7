"""Reads what a worker needs to know of the run it was granted.

In:  ids and the granted epoch
Out: a RunBrief
"""

from __future__ import annotations

from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.orm import aliased

from callboard_runtime.config.resolver import RuntimeConfig
from callboard_runtime.domain.commands import StartAnswer
from callboard_runtime.domain.event_batch import ORIGIN, EventId
from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.domain.state_snapshot import StateSnapshot
from callboard_runtime.entry.brief import HistoryMessage, JournalRow, RunBrief
from callboard_runtime.entry.history import Remembered, pin_history
from callboard_runtime.errors import NotFound
from callboard_runtime.persistence.database import connect
from callboard_runtime.persistence.tables import (
    EventSegmentRow,
    MessageRow,
    PinnedConfigRow,
    RunLegRow,
    RunRow,
    RunStepRow,
    SessionRow,
)

_LEAST_TOKENS = 5  # no message is estimated lower, so no more messages than this can fit into a budget


async def read_brief(engine: AsyncEngine, run_id: UUID, answer: StartAnswer, history_tokens: int) -> RunBrief:
    """The brief of the granted leg; raises Unavailable for an outage, NotFound when the run was deleted meanwhile."""
    async with connect(engine) as connection:
        row = await _run(connection, run_id, answer)
        first_attempt = answer.leg == 1 and answer.attempt == 1
        journal = () if first_attempt else await _journal(connection, run_id)
        messages = await _messages(connection, row, history_tokens)
    snapshot = StateSnapshot.load(row.state_snapshot or {})
    return RunBrief(
        session_id=row.session_id,
        run_id=run_id,
        user_id=row.user_id,
        thread_id=row.thread_id,
        leg_run_id=row.leg_run_id,
        agent_id=row.agent_id,
        leg=answer.leg,
        epoch=answer.epoch,
        attempt=answer.attempt,
        config=RuntimeConfig.model_validate(row.config),
        input=RunInput.model_validate(row.input),
        history=pin_history(messages, run_id, history_tokens),
        journal=journal,
        deadline=answer.deadline,
        initial_state=row.initial_state,
        shared_state=snapshot.shared_state,
        answers=snapshot.pending_tool_calls,
        log_before=EventId(row.before_epoch, row.before_seq) if row.before_epoch else ORIGIN,
        trace=row.trace,
        former_trace=row.former_trace,
    )


async def _run(connection: AsyncConnection, run_id: UUID, answer: StartAnswer) -> Row[*tuple[Any, ...]]:
    leg, first_leg, former_leg = aliased(RunLegRow), aliased(RunLegRow), aliased(RunLegRow)
    before = (
        select(EventSegmentRow.epoch, EventSegmentRow.last_seq)
        .where(EventSegmentRow.session_id == RunRow.session_id, EventSegmentRow.epoch < answer.epoch)
        .order_by(EventSegmentRow.epoch.desc(), EventSegmentRow.first_seq.desc())
        .limit(1)
        .lateral("before")
    )
    query = (
        select(
            RunRow.session_id,
            RunRow.user_id,
            RunRow.agent_id,
            func.coalesce(PinnedConfigRow.config, RunRow.config, type_=JSONB).label("config"),
            RunRow.input,
            RunRow.initial_state,
            SessionRow.thread_id,
            SessionRow.state_snapshot,
            leg.client_run_id.label("leg_run_id"),
            # Every leg replays what the first one began with, so it must see the same history.
            first_leg.history_seq,
            before.c.epoch.label("before_epoch"),
            before.c.last_seq.label("before_seq"),
            leg.traceparent.label("trace"),
            former_leg.traceparent.label("former_trace"),
        )
        .join(SessionRow, SessionRow.id == RunRow.session_id)
        .outerjoin(PinnedConfigRow, PinnedConfigRow.digest == RunRow.config_digest)
        .join(leg, (leg.run_id == RunRow.id) & (leg.leg == answer.leg))
        .join(first_leg, (first_leg.run_id == RunRow.id) & (first_leg.leg == 1))
        .outerjoin(former_leg, (former_leg.run_id == RunRow.id) & (former_leg.leg == answer.leg - 1))
        .outerjoin(before, before.c.epoch.is_not(None))
        .where(RunRow.id == run_id)
    )
    row = (await connection.execute(query)).first()
    if row is None:
        raise NotFound("the run is gone")
    return row


async def _journal(connection: AsyncConnection, run_id: UUID) -> tuple[JournalRow, ...]:
    columns = (
        RunStepRow.key,
        RunStepRow.kind,
        RunStepRow.name,
        RunStepRow.digest,
        RunStepRow.status,
        RunStepRow.result,
        RunStepRow.epoch,
        RunStepRow.tool_call_id,
        RunStepRow.error,
    )
    query = select(*columns).where(RunStepRow.run_id == run_id).order_by(RunStepRow.position)
    return tuple(JournalRow(*row) for row in await connection.execute(query))


async def _messages(connection: AsyncConnection, row: Row[*tuple[Any, ...]], budget: int) -> list[Remembered]:
    """The newest messages that could fit, oldest first."""
    query = (
        select(
            MessageRow.run_id,
            MessageRow.role,
            MessageRow.content,
            MessageRow.tool_calls,
            MessageRow.tool_call_id,
            MessageRow.name,
        )
        .where(
            MessageRow.session_id == row.session_id,
            MessageRow.seq <= (row.history_seq or 0),
            MessageRow.withdrawn.is_(False),
        )
        .order_by(MessageRow.seq.desc())
        .limit(budget // _LEAST_TOKENS + 1)
    )
    newest_first = [_remembered(message) for message in await connection.execute(query)]
    return newest_first[::-1]


def _remembered(row: Row[*tuple[Any, ...]]) -> Remembered:
    message = HistoryMessage(row.role, row.content, tuple(row.tool_calls or ()), row.tool_call_id, row.name)
    return Remembered(row.run_id, message)
