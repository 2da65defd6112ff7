"""The schema: one class per table. Every id from a client is unique per user; everything inside is keyed by UUIDs."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    MetaData,
    Numeric,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

NAMING = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

Money = Numeric(20, 10)


class Base(DeclarativeBase):
    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy's own way of naming it
        datetime: DateTime(timezone=True),
        str: Text(),
        int: BigInteger(),
        Decimal: Money,
        dict[str, Any]: JSONB(none_as_null=True),
        Any: JSONB(none_as_null=True),
    }


def _now() -> Mapped[datetime]:
    return mapped_column(server_default=func.now())


def _zero() -> Mapped[int]:
    return mapped_column(server_default=text("0"))


class SystemAgent(Base):
    """An agent's row: whatever it names wins, field by field, over the YAML files."""

    __tablename__ = "system_agents"

    agent_type: Mapped[str] = mapped_column(primary_key=True)
    model_code: Mapped[str | None]
    llm_params: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    prompts: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    enabled: Mapped[bool] = mapped_column(server_default=text("true"))
    updated_at: Mapped[datetime] = _now()


class SessionRow(Base):
    """A session; written by its actor only. A deleted one stays as a tombstone without content."""

    __tablename__ = "sessions"
    __table_args__ = (
        UniqueConstraint("user_id", "thread_id"),
        Index("ix_sessions_user_updated", "user_id", "updated_at", "id"),
        Index("ix_sessions_status_updated", "status", "updated_at", "id"),  # for operators
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    thread_id: Mapped[str]
    title: Mapped[str | None]
    status: Mapped[str] = mapped_column(server_default=text("'idle'"))
    state_snapshot: Mapped[dict[str, Any] | None]
    state_version: Mapped[int] = _zero()
    log_epoch: Mapped[int] = _zero()
    log_seq: Mapped[int] = _zero()
    message_count: Mapped[int] = _zero()
    last_message_at: Mapped[datetime | None]
    input_tokens: Mapped[int] = _zero()
    output_tokens: Mapped[int] = _zero()
    total_tokens: Mapped[int] = _zero()
    cost: Mapped[Decimal] = _zero()  # type: ignore[assignment]
    unpriced_calls: Mapped[int] = _zero()
    created_at: Mapped[datetime] = _now()
    updated_at: Mapped[datetime] = _now()
    deleted_at: Mapped[datetime | None]


class MessageRow(Base):
    """A message; `seq` counts 1, 2, 3… inside its session and is never reused."""

    __tablename__ = "messages"
    __table_args__ = (UniqueConstraint("session_id", "message_id"), Index("ix_messages_run_id", "run_id"))

    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    seq: Mapped[int] = mapped_column(primary_key=True)
    message_id: Mapped[str]
    run_id: Mapped[UUID | None]
    role: Mapped[str]
    content: Mapped[Any | None]
    tool_calls: Mapped[Any | None]
    tool_call_id: Mapped[str | None]
    name: Mapped[str | None]
    withdrawn: Mapped[bool] = mapped_column(server_default=text("false"))
    created_at: Mapped[datetime] = _now()


class PinnedConfigRow(Base):
    """A resolved configuration under the digest of its content; runs that were accepted with it name it."""

    __tablename__ = "pinned_configs"

    digest: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[dict[str, Any]]
    created_at: Mapped[datetime] = _now()


class RunRow(Base):
    """A run: what was asked, with which configuration, and how it ended."""

    __tablename__ = "runs"
    __table_args__ = (
        UniqueConstraint("user_id", "client_run_id"),
        Index("ix_runs_session_id_created_at", "session_id", "created_at"),
        Index("ix_runs_status_created", "status", "created_at", "id"),  # for operators
        Index("ix_runs_ended_at", "ended_at"),  # for retention
        Index(
            "ix_runs_live",
            "deadline",
            postgresql_where=text("status IN ('queued', 'running', 'awaiting_input', 'cancelling')"),
        ),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    client_run_id: Mapped[str]
    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"))
    agent_id: Mapped[str]
    digest: Mapped[str]
    input: Mapped[dict[str, Any]]
    config: Mapped[dict[str, Any] | None]  # of runs from before `config_digest`
    config_digest: Mapped[str | None]  # its row in pinned_configs
    initial_state: Mapped[Any | None]  # the shared state that it began with
    status: Mapped[str]
    leg: Mapped[int] = mapped_column(server_default=text("1"))
    error_code: Mapped[str | None]
    error_message: Mapped[str | None]
    result: Mapped[Any | None]  # always null: former releases write it, and it goes when nobody runs them any more
    deadline: Mapped[datetime | None]
    cancel_by: Mapped[datetime | None]
    calls: Mapped[int] = _zero()
    input_tokens: Mapped[int] = _zero()
    output_tokens: Mapped[int] = _zero()
    total_tokens: Mapped[int] = _zero()
    cost: Mapped[Decimal] = _zero()  # type: ignore[assignment]
    unpriced_calls: Mapped[int] = _zero()
    created_at: Mapped[datetime] = _now()
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]


class RunLegRow(Base):
    """A leg: from start to pause, or from resume to pause or end; it fills the ids `first` to `last` of the log."""

    __tablename__ = "run_legs"
    __table_args__ = (UniqueConstraint("user_id", "client_run_id", "run_id", "leg"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    leg: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    client_run_id: Mapped[str]
    digest: Mapped[str]
    first_epoch: Mapped[int | None]  # the epoch of its first attempt; its RUN_STARTED is `<first_epoch>-1`
    last_epoch: Mapped[int | None]  # with last_seq: the id of its closing event
    last_seq: Mapped[int | None]
    history_seq: Mapped[int | None]  # messages up to this seq were there when the leg was activated
    traceparent: Mapped[str | None]  # W3C form: the span that asked for the leg, if it is traced
    created_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]


class RunAttemptRow(Base):
    """One task execution that was granted an epoch."""

    __tablename__ = "run_attempts"
    __table_args__ = (Index("ix_run_attempts_run_id", "run_id"), UniqueConstraint("session_id", "epoch"))

    attempt_id: Mapped[UUID] = mapped_column(primary_key=True)
    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"))
    session_id: Mapped[UUID]
    leg: Mapped[int]
    epoch: Mapped[int]
    process: Mapped[str]
    outcome: Mapped[str | None]  # finished, paused, released, superseded, ended
    started_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]


class RunStepRow(Base):
    """The journal: a step is begun before its side effect and recorded before anything builds on it."""

    __tablename__ = "run_steps"

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(Identity())  # order of the commits
    kind: Mapped[str]
    name: Mapped[str]
    digest: Mapped[str]
    tool_call_id: Mapped[str | None]
    status: Mapped[str]  # begun, recorded, failed, cancelled, lost, unknown
    result: Mapped[Any | None]
    error: Mapped[str | None]
    begun_at: Mapped[datetime] = _now()
    recorded_at: Mapped[datetime | None]


class LlmCallRow(Base):
    """One provider request; written when its step begins, closed when that is recorded, cancelled or lost."""

    __tablename__ = "llm_calls"
    __table_args__ = (Index("ix_llm_calls_session_id", "session_id"),)

    run_id: Mapped[UUID] = mapped_column(ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    session_id: Mapped[UUID]
    stage: Mapped[str]
    provider: Mapped[str]
    model: Mapped[str]
    status: Mapped[str]  # begun, recorded, failed, cancelled, lost
    input_tokens: Mapped[int] = _zero()
    output_tokens: Mapped[int] = _zero()
    cached_tokens: Mapped[int] = _zero()
    reasoning_tokens: Mapped[int] = _zero()
    cost: Mapped[Decimal | None]
    estimated: Mapped[bool] = mapped_column(server_default=text("false"))
    first_token_ms: Mapped[int | None]
    latency_ms: Mapped[int | None]
    begun_at: Mapped[datetime] = _now()
    ended_at: Mapped[datetime | None]


class EventSegmentRow(Base):
    """Consecutive committed events, as sent: `lines` is one line of AG-UI JSON per event."""

    __tablename__ = "event_segments"

    session_id: Mapped[UUID] = mapped_column(ForeignKey("sessions.id", ondelete="CASCADE"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    first_seq: Mapped[int] = mapped_column(primary_key=True)
    last_seq: Mapped[int]
    run_id: Mapped[UUID]
    leg: Mapped[int]
    closing: Mapped[bool] = mapped_column(server_default=text("false"))  # its last line ends the leg
    lines: Mapped[str]
    created_at: Mapped[datetime] = _now()


class OutboxRow(Base):
    """Something to send once its cause is committed; deleted when it was sent, a wake-up when it was claimed."""

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_due_at", "due_at"),
        Index("ix_outbox_run_id", "run_id"),
        Index("ix_outbox_session_id", "session_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str]  # wakeup, events, control, integration
    partition: Mapped[int]
    session_id: Mapped[UUID]
    run_id: Mapped[UUID | None]
    user_id: Mapped[str]
    payload: Mapped[dict[str, Any]]
    sends: Mapped[int] = _zero()
    due_at: Mapped[datetime] = _now()
    created_at: Mapped[datetime] = _now()


class WebhookDeliveryRow(Base):
    """What one URL is told of one event: due until it was delivered or given up, then a line of the log."""

    __tablename__ = "webhook_deliveries"
    __table_args__ = (
        Index(
            "ix_webhook_deliveries_open",
            "endpoint",
            "due_at",
            postgresql_where=text("delivered_at IS NULL AND given_up_at IS NULL"),
        ),
        Index("ix_webhook_deliveries_created_at", "created_at"),
        Index("ix_webhook_deliveries_session_id", "session_id"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    event_id: Mapped[UUID]  # the same for every URL, and in every copy
    endpoint: Mapped[UUID]  # stands for the whole URL
    url: Mapped[str]  # without its query
    type: Mapped[str]
    session_id: Mapped[UUID]
    run_id: Mapped[UUID]
    body: Mapped[dict[str, Any] | None]  # none once it was delivered
    attempts: Mapped[int] = _zero()
    last_status: Mapped[int | None]
    last_error: Mapped[str | None]
    due_at: Mapped[datetime] = _now()
    attempted_at: Mapped[datetime | None]
    delivered_at: Mapped[datetime | None]
    given_up_at: Mapped[datetime | None]
    created_at: Mapped[datetime] = _now()


class ProcessRow(Base):
    """A living process and what it is doing; `beat_at` is the database's clock."""

    __tablename__ = "processes"

    id: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]  # http, actors, worker
    host: Mapped[str]
    slots: Mapped[int] = _zero()
    attempts: Mapped[Any] = mapped_column(server_default=text("'[]'::jsonb"))  # ids of the attempts it runs
    started_at: Mapped[datetime] = _now()
    beat_at: Mapped[datetime] = _now()


class PartitionRow(Base):
    """Who owns a partition; taking it raises `partition_epoch`, and every commit checks that."""

    __tablename__ = "partitions"

    partition: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    owner: Mapped[str | None]
    partition_epoch: Mapped[int] = _zero()
    taken_at: Mapped[datetime | None]


class CommandClaimRow(Base):
    """A command that is too large for a message; it stays for an hour, in case its message comes again."""

    __tablename__ = "command_claims"
    __table_args__ = (Index("ix_command_claims_session_id", "session_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    session_id: Mapped[UUID]  # which may not exist yet
    body: Mapped[bytes]  # the command's wire form
    created_at: Mapped[datetime] = _now()


class AuditRow(Base):
    """Who did what when: approvals, rejected tool results, cancels, refused access."""

    __tablename__ = "audit_log"
    __table_args__ = (Index("ix_audit_log_session_id", "session_id"),)

    id: Mapped[UUID] = mapped_column(primary_key=True)
    at: Mapped[datetime] = _now()
    actor: Mapped[str]  # user id, or the name of a process of ours
    action: Mapped[str]
    session_id: Mapped[UUID | None]
    run_id: Mapped[UUID | None]
    subject: Mapped[str | None]
    details: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))


class DemoRefundRow(Base):
    """What the demonstration tool `issue_refund` did; its tool call's id keeps it from being done twice."""

    __tablename__ = "demo_refunds"

    tool_call_id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    order_id: Mapped[str]
    amount: Mapped[Decimal]
    created_at: Mapped[datetime] = _now()
