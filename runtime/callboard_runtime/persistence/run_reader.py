"""Reads what a worker needs to know of the run it was granted.

In:  ids and the granted epoch
Out: a RunBrief
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Label, Row, Select, bindparam, exists, func, select
from sqlalchemy.dialects.postgresql import JSONB, aggregate_order_by
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
    RunAttemptRow,
    RunLegRow,
    RunRow,
    RunStepRow,
    SessionRow,
)

_LEAST_TOKENS = 5  # no message is estimated lower, so no more messages than this can fit into a budget
_ANY_EPOCH = 2**62  # no session comes that far


async def read_brief(engine: AsyncEngine, run_id: UUID, answer: StartAnswer, history_tokens: int) -> RunBrief:
    """The brief of the granted leg; raises Unavailable for an outage, NotFound when the run was deleted meanwhile."""
    first_attempt = answer.leg == 1 and answer.attempt == 1
    async with connect(engine) as connection:
        row = await _run(connection, run_id, answer.leg, answer.epoch, history_tokens)
        if row is None:
            raise NotFound("the run is gone")
        journal = () if first_attempt else await _journal(connection, run_id)
    brief = _brief(row, pin_history(_messages(row), run_id, history_tokens), answer.leg)
    return replace(brief, journal=journal)


async def read_first_brief(engine: AsyncEngine, run_id: UUID, history_tokens: int) -> RunBrief | None:
    """The brief of a run's first attempt, read before its grant.

    None if the run was attempted before, or does not exist. Raises Unavailable for an outage.
    """
    async with connect(engine) as connection:
        row = await _run(connection, run_id, 1, _ANY_EPOCH, history_tokens)
    if row is None or row.attempted:
        return None
    return _brief(row, pin_history(_messages(row), run_id, history_tokens), 1)


def _brief(row: Row[*tuple[Any, ...]], history: tuple[HistoryMessage, ...], leg: int) -> RunBrief:
    snapshot = StateSnapshot.load(row.state_snapshot or {})
    return RunBrief(
        session_id=row.session_id,
        run_id=row.id,
        user_id=row.user_id,
        thread_id=row.thread_id,
        leg_run_id=row.leg_run_id,
        agent_id=row.agent_id,
        leg=leg,
        config=RuntimeConfig.model_validate(row.config),
        input=RunInput.model_validate(row.input),
        history=history,
        initial_state=row.initial_state,
        shared_state=snapshot.shared_state,
        answers=snapshot.pending_tool_calls,
        log_before=EventId(row.before_epoch, row.before_seq) if row.before_epoch else ORIGIN,
        trace=row.trace,
        former_trace=row.former_trace,
    )


async def _run(
    connection: AsyncConnection, run_id: UUID, leg: int, epoch: int, budget: int
) -> Row[*tuple[Any, ...]] | None:
    """The row of a run's leg, with the last event of any epoch before this one and the messages that could fit."""
    asked = {"run": run_id, "leg": leg, "epoch": epoch, "most": budget // _LEAST_TOKENS + 1}
    return (await connection.execute(_run_query(), asked)).first()


async def _journal(connection: AsyncConnection, run_id: UUID) -> tuple[JournalRow, ...]:
    return tuple(JournalRow(*row) for row in await connection.execute(_journal_query(), {"run": run_id}))


def _messages(row: Row[*tuple[Any, ...]]) -> list[Remembered]:
    """The newest messages that could fit, oldest first."""
    newest_first: list[list[Any]] = row.newest_messages or []
    return [
        Remembered(UUID(run) if run else None, HistoryMessage(role, content, tuple(calls or ()), call, name))
        for run, role, content, calls, call, name in reversed(newest_first)
    ]


# -- the statements: made once, as making one takes longer than running it --------------------------------------------


@cache
def _run_query() -> Select[*tuple[Any, ...]]:
    # Every leg replays what the first one began with, so it must see the same history.
    leg, first_leg, former_leg = aliased(RunLegRow), aliased(RunLegRow), aliased(RunLegRow)
    before = (
        select(EventSegmentRow.epoch, EventSegmentRow.last_seq)
        .where(EventSegmentRow.session_id == RunRow.session_id, EventSegmentRow.epoch < bindparam("epoch"))
        .order_by(EventSegmentRow.epoch.desc(), EventSegmentRow.first_seq.desc())
        .limit(1)
        .lateral("before")
    )
    return (
        select(
            RunRow.id,
            RunRow.session_id,
            RunRow.user_id,
            RunRow.agent_id,
            func.coalesce(PinnedConfigRow.config, RunRow.config, type_=JSONB).label("config"),
            RunRow.input,
            RunRow.initial_state,
            SessionRow.thread_id,
            SessionRow.state_snapshot,
            leg.client_run_id.label("leg_run_id"),
            _newest_messages(first_leg),
            before.c.epoch.label("before_epoch"),
            before.c.last_seq.label("before_seq"),
            leg.traceparent.label("trace"),
            former_leg.traceparent.label("former_trace"),
            exists().where(RunAttemptRow.run_id == RunRow.id).label("attempted"),
        )
        .join(SessionRow, SessionRow.id == RunRow.session_id)
        .outerjoin(PinnedConfigRow, PinnedConfigRow.digest == RunRow.config_digest)
        .join(leg, (leg.run_id == RunRow.id) & (leg.leg == bindparam("leg")))
        .join(first_leg, (first_leg.run_id == RunRow.id) & (first_leg.leg == 1))
        .outerjoin(former_leg, (former_leg.run_id == RunRow.id) & (former_leg.leg == bindparam("leg") - 1))
        .outerjoin(before, before.c.epoch.is_not(None))
        .where(RunRow.id == bindparam("run"))
    )


@cache
def _journal_query() -> Select[*tuple[Any, ...]]:
    columns = (
        RunStepRow.key,
        RunStepRow.kind,
        RunStepRow.name,
        RunStepRow.digest,
        RunStepRow.status,
        RunStepRow.result,
        RunStepRow.epoch,
        RunStepRow.tool_call_id,
    )
    return select(*columns).where(RunStepRow.run_id == bindparam("run")).order_by(RunStepRow.position)


def _newest_messages(first_leg: type[RunLegRow]) -> Label[Any]:
    """As JSON beside the run's own row, newest first: another statement would be another round trip before the crew."""
    newest = (
        select(
            MessageRow.seq,
            MessageRow.run_id,
            MessageRow.role,
            MessageRow.content,
            MessageRow.tool_calls,
            MessageRow.tool_call_id,
            MessageRow.name,
        )
        .where(
            MessageRow.session_id == RunRow.session_id,
            MessageRow.seq <= first_leg.history_seq,
            MessageRow.withdrawn.is_(False),
        )
        .order_by(MessageRow.seq.desc())
        .limit(bindparam("most"))
        .correlate(RunRow, first_leg)
        .subquery("newest")
    )
    seq, *members = newest.c
    listed = func.json_agg(aggregate_order_by(func.json_build_array(*members), seq.desc()), type_=JSONB)
    return select(listed).scalar_subquery().label("newest_messages")
