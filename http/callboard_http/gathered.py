"""Questions of the same kind, asked by many readers at once and answered by a few queries."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from itertools import islice
from typing import Generic, TypeVar

from callboard_runtime.errors import Unavailable

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

PATIENCE = 15.0  # seconds a question may wait; a storm of readers is served late rather than refused


class Gathered(Generic[K, V]):
    """Answers with `read`, which takes up to `most` different questions; `at_once` reads are under way at most.

    What is asked while all of them are goes with the next one, so that the groups grow with the load; `linger` seconds
    are waited for company first. Whoever asks the same gets the same answer. An answer was read after its question.
    """

    def __init__(
        self,
        read: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        most: int,
        at_once: int = 1,
        linger: float = 0.0,
    ) -> None:
        self._read, self._most, self._linger = read, most, linger
        self._free = at_once
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._due = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def of(self, question: K) -> V | None:
        """The answer, None if there is none. Raises what the read raised, and Unavailable when it took too long."""
        answer = self._waiting.get(question)
        if answer is None:
            answer = self._waiting[question] = asyncio.get_running_loop().create_future()
            self._plan()
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise Unavailable("too many readers ask at once; try again", retry_after=1) from None

    def _plan(self) -> None:
        """Begin with the next read soon, unless it is planned or has to wait for one under way."""
        if self._waiting and self._free and not self._due:
            self._due = True
            asyncio.get_running_loop().call_later(self._linger, self._begin)

    def _begin(self) -> None:
        self._due = False
        self._free -= 1
        asked = {question: self._waiting.pop(question) for question in list(islice(self._waiting, self._most))}
        task = asyncio.create_task(self._answer(asked))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._plan()

    async def _answer(self, asked: Mapping[K, asyncio.Future[V | None]]) -> None:
        try:
            found = await self._read(list(asked))
        except Exception as error:  # noqa: BLE001 - those who asked raise it
            for answer in asked.values():
                _fail(answer, error)
        else:
            for question, answer in asked.items():
                if not answer.done():
                    answer.set_result(found.get(question))
        finally:
            self._free += 1
            self._plan()


def _fail(answer: asyncio.Future[V | None], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # an outage that everybody who asked left before is nobody's concern
