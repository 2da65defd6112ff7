"""What a decision needs beyond the snapshot: read by the store before `decide`, which itself reads nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Self
from uuid import UUID

from callboard_runtime.agui.open_parts import OpenParts
from callboard_runtime.domain.event_batch import EventBatch
from callboard_runtime.domain.run_input import NewMessage, RunInput
from callboard_runtime.domain.state_snapshot import PendingToolCall, RunStatus
from callboard_runtime.errors import Refused
from callboard_runtime.settings import RunSettings


@dataclass(frozen=True, slots=True)
class Policy:
    """The configured bounds of a run."""

    deadline: timedelta
    start_deadline: timedelta
    cancel_grace: timedelta
    max_attempts: int
    max_queue: int
    tool_call_ttl: timedelta
    approver_roles: frozenset[str] = frozenset()  # empty: the session's owner decides
    approver_not_requester: bool = False
    fail_on_expiry: bool = False
    max_state_bytes: int = 64 * 1024

    @classmethod
    def of(cls, runs: RunSettings) -> Self:
        return cls(
            deadline=timedelta(seconds=runs.deadline),
            start_deadline=timedelta(seconds=runs.start_deadline),
            cancel_grace=timedelta(seconds=runs.cancel_grace),
            max_attempts=runs.max_attempts,
            max_queue=runs.max_queue,
            tool_call_ttl=timedelta(seconds=runs.tool_call_ttl),
            approver_roles=frozenset(runs.approver_roles),
            approver_not_requester=runs.approver_not_requester,
            fail_on_expiry=runs.on_expiry == "fail",
            max_state_bytes=runs.max_state_bytes,
        )


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run that the database has under the id that a client named."""

    run_id: UUID
    client_run_id: str
    session_id: UUID
    status: RunStatus
    leg: int
    digests: Mapping[tuple[str, str], int]  # (the runId a leg was asked for under, digest of what was asked) -> leg


@dataclass(frozen=True, slots=True)
class KnownAttempt:
    """An attempt that was granted its epoch before; `opening` is what it was answered with."""

    attempt_id: UUID
    epoch: int
    number: int
    opening: EventBatch


@dataclass(frozen=True, slots=True)
class Takeover:
    """What the present leg has shown: `tail` was shown but never committed, `open` is what both left open."""

    tail: EventBatch | None = None
    open: OpenParts = field(default_factory=OpenParts)
    transcript: tuple[NewMessage, ...] = ()  # the session's messages, without the withdrawn


NO_TAKEOVER = Takeover()


@dataclass(frozen=True, slots=True)
class Facts:
    now: datetime
    policy: Policy
    run: KnownRun | None = None
    known_messages: frozenset[str] = frozenset()  # of the ids that the command or the takeover names
    config: dict[str, Any] | None = None  # resolved for AcceptRun of a new run
    config_error: Refused | None = None
    attempt: KnownAttempt | None = None  # under StartRun's attempt_id
    attempts: int = 0  # attempts of the active run so far
    attempt_alive: bool = False  # the open attempt's process beats and lists it
    takeover: Takeover = field(default_factory=Takeover)
    settled: Mapping[str, PendingToolCall] = field(
        default_factory=dict[str, PendingToolCall]
    )  # answered calls of the session, by id
    input: RunInput | None = None  # of the active run, when its first leg starts
    next_input: RunInput | None = None  # of the run at the head of the queue
