"""Heavy steps of many runs take turns, and what LiteLLM needs no thread for runs on the loop."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from functools import partial
from typing import Any

import pytest

from callboard_runtime.crew.runtime import prepare_loop
from callboard_runtime.llm.libraries import litellm
from callboard_runtime.llm.threads import LoopThreads, only_makes_request
from callboard_runtime.pacing import Pace


async def test_those_who_come_together_go_on_in_order_one_in_each_turn_of_the_loop() -> None:
    pace, turns, went = Pace(), 0, dict[int, int]()

    def count() -> None:
        nonlocal turns
        turns += 1
        if len(went) < 5:
            loop.call_soon(count)

    async def step(number: int) -> None:
        await pace.turn()
        went[number] = turns

    loop = asyncio.get_running_loop()
    loop.call_soon(count)
    await asyncio.gather(*(step(number) for number in range(5)))
    assert list(went) == [0, 1, 2, 3, 4]
    assert len(set(went.values())) == 5


async def test_who_comes_alone_does_not_wait() -> None:
    pace = Pace()
    alone = pace.turn()
    with pytest.raises(StopIteration):
        alone.send(None)
    await asyncio.sleep(0)
    with pytest.raises(StopIteration):
        pace.turn().send(None)


async def test_one_who_leaves_keeps_nobody_waiting() -> None:
    pace = Pace()
    await pace.turn()
    waiting = [asyncio.create_task(pace.turn()) for _ in range(3)]
    await asyncio.sleep(0)
    waiting[1].cancel()
    async with asyncio.timeout(15):
        await asyncio.wait(waiting)
    assert [task.cancelled() for task in waiting] == [False, True, False]


async def test_a_request_that_needs_nothing_fetched_is_made_on_the_loop() -> None:
    made_in: list[str] = []

    class Watched(LoopThreads):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            made_in.append("loop" if only_makes_request(fn) else "thread")
            return super().submit(fn, *args, **kwargs)

    asyncio.get_running_loop().set_default_executor(Watched(max_workers=1))
    answer: Any = await litellm.acompletion(model="openai/x", messages=[], mock_response="hello", api_key="none")  # pyright: ignore[reportUnknownMemberType]
    assert answer.choices[0].message.content == "hello"
    assert made_in == ["loop"], "LiteLLM hands the making of a request over in another way: look at LoopThreads anew"


@pytest.mark.parametrize(
    ("model", "at_once"), [("openai/x", True), ("openrouter/a/b", True), ("bedrock/x", False), ("vertex_ai/x", False)]
)
def test_only_providers_that_fetch_nothing_are_asked_at_once(model: str, at_once: bool) -> None:
    import litellm.main

    making = partial(copy_context().run, partial(litellm.main.completion, model=model))  # pyright: ignore[reportUnknownMemberType]
    assert only_makes_request(making) is at_once


async def test_everything_else_runs_in_threads() -> None:
    prepare_loop(asyncio.get_running_loop(), 1)
    assert await asyncio.to_thread(threading.current_thread) is not threading.current_thread()
    with pytest.raises(ZeroDivisionError):
        await asyncio.to_thread(lambda: 1 // 0)
