"""Calls of one Lua script that are made at the same moment travel to Redis together: one write, one read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

GROUP = 256  # calls that travel together at most

Call = tuple[str, tuple[Any, ...], "asyncio.Future[Any]"]


class PipelinedScript:
    """A script with one key. Calls may overtake each other: a caller that needs order waits for its answers."""

    def __init__(self, redis: Redis, source: str) -> None:
        self._redis, self._source = redis, source
        self._script = redis.register_script(source)
        self._waiting: list[Call] = []
        self._groups: set[asyncio.Task[None]] = set()

    async def __call__(self, key: str, arguments: tuple[Any, ...]) -> Any:
        """The script's answer; raises what Redis raises."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._waiting.append((key, arguments, answer))
        if len(self._waiting) == 1:
            loop.call_soon(self._send)
        return await answer

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        for start in range(0, len(waiting), GROUP):
            task = asyncio.create_task(self._send_group(waiting[start : start + GROUP]), name="redis-group")
            self._groups.add(task)
            task.add_done_callback(self._groups.discard)

    async def _send_group(self, calls: Sequence[Call]) -> None:
        try:
            answers = await self._ask(calls)
        except BaseException as error:
            for _, _, answer in calls:
                _settle(answer, error)
            if not isinstance(error, Exception):
                raise
        else:
            for (_, _, answer), result in zip(calls, answers, strict=True):
                _settle(answer, result)

    async def _ask(self, calls: Sequence[Call]) -> list[Any]:
        answers = await self._execute(calls)
        unknown = [index for index, answer in enumerate(answers) if isinstance(answer, NoScriptError)]
        if unknown:  # a fresh or flushed Redis
            await self._redis.script_load(self._source)
            again = await self._execute([calls[index] for index in unknown])
            for index, answer in zip(unknown, again, strict=True):
                answers[index] = answer
        return answers

    async def _execute(self, calls: Sequence[Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key, arguments, _ in calls:
                pipeline.evalsha(self._script.sha, 1, key, *arguments)
            return await pipeline.execute(raise_on_error=False)


def _settle(answer: asyncio.Future[Any], result: Any) -> None:
    if answer.done():
        return  # the caller gave up
    if isinstance(result, Exception):
        answer.set_exception(result)
    elif isinstance(result, BaseException):
        answer.cancel()
    else:
        answer.set_result(result)
