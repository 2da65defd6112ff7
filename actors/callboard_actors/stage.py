"""One stage of the work on commands: what waits is carried out in groups, by a few tasks at most.

In: work. Out: nothing; the next stage is told by what carries it out. While a service is away the stage pauses.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from callboard_runtime.broker.connection import is_real_cancellation
from callboard_runtime.errors import Unavailable

if TYPE_CHECKING:
    from callboard_actors.groups import Work

logger = logging.getLogger(__name__)

PATIENCE = (0.05, 0.1, 0.25, 0.5, 1.0)  # seconds between tries while a service is away; the last one repeats


class Stage:
    """`carry_out` gets groups of at most `size`, by `width` tasks; `again` what met an outage, `failed` the rest.

    All tasks but one carry out full groups only: what is less joins what comes while that one is at work.
    `taken` is called whenever what waited was taken; a stage that may not go on waits for another `pump`.
    """

    def __init__(
        self,
        width: int,
        size: int,
        carry_out: Callable[[Sequence[Work]], Awaitable[None]],
        again: Callable[[Sequence[Work]], None],
        failed: Callable[[Sequence[Work], Exception], None],
        *,
        may_go_on: Callable[[], bool] = lambda: True,
        taken: Callable[[], None] = lambda: None,
    ) -> None:
        self._width, self._size = width, size
        self._carry_out, self._again, self._failed = carry_out, again, failed
        self._may_go_on, self._taken = may_go_on, taken
        self._waiting: deque[Work] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting = 0  # tasks that have not taken anything yet
        self._outages = 0  # in a row

    @property
    def waits(self) -> bool:
        """Whether there is something that nobody has taken yet."""
        return bool(self._waiting)

    def add(self, work: Work) -> None:
        """Have it wait for `pump`."""
        self._waiting.append(work)

    def pump(self) -> None:
        """Set tasks to work if there is something to do; they go on for as long as there is."""
        while len(self._tasks) < self._width and self._is_due(len(self._tasks)) and self._may_go_on():
            self._starting += 1
            task = asyncio.get_running_loop().create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._over)

    def _is_due(self, others: int) -> bool:
        """Whether there is a group for one more task, beside so many others."""
        free = len(self._waiting) - self._starting * self._size
        return free >= (self._size if others else 1)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self.pump()

    async def _run(self) -> None:
        self._starting -= 1
        while self._is_due(len(self._tasks) - 1) and self._may_go_on() and (group := self._take()):
            for work in group:
                work.home.begin()
            try:
                await self._safely(group)
            finally:
                for work in group:
                    work.home.end()
            if self._outages:
                await asyncio.sleep(PATIENCE[min(self._outages, len(PATIENCE)) - 1])

    async def _safely(self, group: Sequence[Work]) -> None:
        try:
            await self._carry_out(group)
        except Unavailable as error:
            self._note(group, error)
            self._again(group)
        except asyncio.CancelledError:
            if is_real_cancellation():
                raise
            self._again(group)  # what was awaited was cancelled, by a closing connection
        except Exception as error:  # noqa: BLE001 - any other exception is a bug, or one command's conflict
            self._failed(group, error)
        else:
            self._outages = 0

    def _take(self) -> list[Work]:
        group = self._next()
        self._taken()
        return group

    def _next(self) -> list[Work]:
        """What waits longest; what was in a failed group goes by itself, what has lost its partition not at all."""
        group: list[Work] = []
        while self._waiting and len(group) < self._size:
            if self._waiting[0].alone and group:
                break
            work = self._waiting.popleft()
            if work.home.gone:
                continue
            group.append(work)
            if work.alone:
                break
        return group

    def _note(self, group: Sequence[Work], error: Unavailable) -> None:
        level = logging.DEBUG if self._outages else logging.WARNING
        self._outages += 1
        logger.log(level, "%d commands are held: %s", len(group), error, extra={"action": "commands_held"})
