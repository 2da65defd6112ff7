"""Whether this process works, asked from any thread and answered by its event loop.

In:  checks of the process's parts
Out: a report; a loop that does not answer is reported as one, never waited for long
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from callboard_runtime.persistence.database import connect
from callboard_runtime.persistence.tables import Base

CHECK_TIMEOUT = 2.0  # seconds
LOOP_TIMEOUT = 4.0  # seconds until a loop counts as busy
DEAD_LOOP = 20.0  # seconds until it counts as stuck

_LACKING = text("""
SELECT count(*) FROM unnest(CAST(:tables AS text[]), CAST(:columns AS text[])) AS needed (tab, col)
WHERE NOT EXISTS (
  SELECT 1 FROM pg_attribute a
  WHERE a.attrelid = to_regclass(quote_ident(needed.tab)) AND a.attname = needed.col AND NOT a.attisdropped
)
""")

Check = Callable[[], bool | Awaitable[bool]]
Probe = Callable[[], Awaitable[None]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Report:
    """What each check said."""

    checks: Mapping[str, bool]

    @property
    def ready(self) -> bool:
        return bool(self.checks) and all(self.checks.values())


class Health:
    """The checks of a process; before `watch` it is alive and not ready."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._checks: Mapping[str, Check] = {}
        self._probes: Sequence[Probe] = ()

    def watch(self, loop: asyncio.AbstractEventLoop, checks: Mapping[str, Check], probes: Sequence[Probe] = ()) -> None:
        """From now on ask these, on this loop; `probes` look after metrics that are read when somebody asks."""
        self._checks, self._probes, self._loop = checks, probes, loop

    def report(self) -> Report:
        """Ask all checks; takes a few seconds at most. Not to be called on the watched loop."""
        if self._loop is None:
            return Report({"started": False})
        answers = self._on_loop(_ask(self._checks), LOOP_TIMEOUT)
        return Report({"event_loop": answers is not None, **(answers or {})})

    def alive(self) -> bool:
        """Whether the loop still turns."""
        return self._loop is None or self._on_loop(_true(), DEAD_LOOP) is True

    def probe(self) -> None:
        """Refresh the metrics that need asking; what does not answer keeps its last values."""
        if self._loop is not None and self._probes:
            self._on_loop(_probe(self._probes), LOOP_TIMEOUT)

    def _on_loop(self, work: Coroutine[Any, Any, T], timeout: float) -> T | None:
        assert self._loop is not None
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop is closed
            work.close()
            return None
        try:
            return future.result(timeout)
        except TimeoutError:
            future.cancel()
            return None


def database_answers(engine: AsyncEngine) -> Check:
    """A check that asks the database something small."""

    async def check() -> bool:
        async with connect(engine) as connection:
            await connection.execute(text("SELECT 1"))
        return True

    return check


def schema_is_there(engine: AsyncEngine) -> Check:
    """A check that the database has every table and column of this release; a later schema may have more."""
    needed = [(table.name, column.name) for table in Base.metadata.sorted_tables for column in table.columns]
    values = {"tables": [table for table, _ in needed], "columns": [column for _, column in needed]}

    async def check() -> bool:
        async with connect(engine) as connection:
            return (await connection.execute(_LACKING, values)).scalar_one() == 0

    return check


async def answers(check: Check) -> bool:
    """What a check says within two seconds; whatever it raises, the answer is no."""
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            said = check()
            return bool(await said if inspect.isawaitable(said) else said)
    except Exception:  # noqa: BLE001
        return False


async def _ask(checks: Mapping[str, Check]) -> dict[str, bool]:
    said = await asyncio.gather(*(answers(check) for check in checks.values()))
    return dict(zip(checks, said, strict=True))


async def _probe(probes: Sequence[Probe]) -> None:
    async def quietly(probe: Probe) -> bool:
        await probe()
        return True

    await asyncio.gather(*(answers(lambda probe=probe: quietly(probe)) for probe in probes))


async def _true() -> bool:
    return True
