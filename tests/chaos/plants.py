"""Bugs planted into real processes on purpose: the checker must find each of them.

Those of the simulation serve here, too, where they change production code; these change what it does not have.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from simulation import plants as simulated

_kept = ExitStack()  # what is planted stays for the life of the process


def _no_fences() -> None:
    """Any process may write any session, on any version of it."""
    from callboard_actors import commit

    async def execute(connection: Any, statement: Any, writes: Any) -> None:
        await connection.exec_driver_sql(statement.text, tuple(statement.parameters))

    commit._execute, commit._guards = execute, lambda _table: []


def _usage_in_a_callback() -> None:
    """Some usage never arrives, as with callbacks that are lost."""
    from callboard_runtime.domain.usage import CallUsage
    from callboard_runtime.llm.request import Request

    real = Request.usage

    def usage(self: Any, *arguments: Any) -> CallUsage:
        found = real(self, *arguments)
        return found.model_copy(update={"input_tokens": 0, "output_tokens": 0}) if random.random() < 0.3 else found

    Request.usage = usage  # type: ignore[method-assign]


def _tool_replayed() -> None:
    """A tool is started again whatever the journal says."""
    from callboard_runtime.entry.attempt import Attempt

    real = Attempt.find

    def find(self: Any, key: str) -> Any:
        row = real(self, key)
        return None if row is not None and row.kind == "tool" else row

    Attempt.find = find  # type: ignore[method-assign]


def _journal_forgotten() -> None:
    """A new attempt begins from nothing."""
    from callboard_runtime.entry.attempt import Attempt

    Attempt.find = lambda _self, _key: None  # type: ignore[method-assign, assignment]
    Attempt.unreplayed = lambda _self: ()  # type: ignore[method-assign]


def _sweeper_sleeps() -> None:
    """Nobody looks for what died."""
    from callboard_actors.sweeper import Sweeper

    async def nothing(_self: Any, _connection: Any) -> None:
        return None

    Sweeper._reap = nothing  # type: ignore[method-assign]


OWN: dict[str, Callable[[], None]] = {
    "no_fences_at_all": _no_fences,
    "usage_in_a_callback": _usage_in_a_callback,
    "tool_replayed": _tool_replayed,
    "journal_forgotten": _journal_forgotten,
    "sweeper_sleeps": _sweeper_sleeps,
}

SHARED = (
    "reply_before_commit",
    "no_epoch_check",
    "no_attempt_memory",
    "no_run_dedup",
    "any_body_dedup",
    "terminal_twice",
    "lost_calls_unbilled",
    "overlapping_numbers",
)
"""Of the simulation's, those that show in real processes within minutes; the others need its witnesses."""

EVERY = (*OWN, *SHARED)


def apply(name: str) -> None:
    """Plant the bug in this process; raises KeyError for an unknown one."""
    if name in OWN:
        OWN[name]()
    else:
        _kept.enter_context(simulated.PLANTS[name]())
