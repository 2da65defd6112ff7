"""Heavy steps of many runs take turns, and what LiteLLM needs no thread for runs on the loop."""

from __future__ import annotations

import asyncio
import threading
from contextvars import copy_context
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from callboard_runtime.crew.runtime import prepare_loop
from callboard_runtime.llm.libraries import litellm
from callboard_runtime.llm.threads import LoopThreads, only_makes_request
from callboard_runtime.pacing import BREATH, CROWD, Pace, Step


class Turns:
    """Counts the turns of the loop for as long as somebody looks."""

    def __init__(self) -> None:
        self.count, self._loop = 0, asyncio.get_running_loop()
        self._next()

    def _next(self) -> None:
        self.count += 1
        self._handle = self._loop.call_soon(self._next)

    def stop(self) -> None:
        self._handle.cancel()


async def test_those_who_come_together_go_on_one_at_a_time_and_the_loop_breathes_between_them() -> None:
    pace, turns, went = Pace(), Turns(), list[tuple[int, int]]()

    async def step(number: int) -> None:
        await pace.turn(Step.CREW)
        went.append((number, turns.count))

    await asyncio.gather(*(step(number) for number in range(5)))
    turns.stop()
    assert [number for number, _ in went] == [0, 1, 2, 3, 4]
    assert all(later - earlier >= BREATH for (_, earlier), (_, later) in pairwise(went))


async def test_a_crowd_leaves_the_loop_one_turn_at_a_time() -> None:
    pace, turns, went = Pace(), Turns(), list[int]()

    async def step() -> None:
        await pace.turn(Step.CREW)
        went.append(turns.count)

    await asyncio.gather(*(step() for _ in range(2 * CROWD)))
    turns.stop()
    gaps = [later - earlier for earlier, later in pairwise(went)]
    assert min(gaps[-CROWD // 2 :]) >= BREATH > max(gaps[1 : CROWD // 2]) > 0


async def test_a_granted_run_goes_before_crews_that_came_earlier() -> None:
    pace, went = Pace(), list[str]()

    async def step(name: str, kind: Step) -> None:
        await pace.turn(kind)
        went.append(name)

    crews = [step(f"crew {number}", Step.CREW) for number in range(3)]
    await asyncio.gather(*crews, step("request", Step.REQUEST))
    assert went == ["crew 0", "request", "crew 1", "crew 2"]


async def test_who_comes_alone_does_not_wait() -> None:
    pace = Pace()
    with pytest.raises(StopIteration):
        pace.turn(Step.CREW).send(None)
    for _ in range(BREATH):
        await asyncio.sleep(0)
    with pytest.raises(StopIteration):
        pace.turn(Step.REQUEST).send(None)


async def test_one_who_leaves_keeps_nobody_waiting() -> None:
    pace = Pace()
    await pace.turn(Step.CREW)
    waiting = [asyncio.create_task(pace.turn(Step.CREW)) for _ in range(3)]
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

    asyncio.get_running_loop().set_default_executor(Watched(asyncio.get_running_loop(), 1))
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
