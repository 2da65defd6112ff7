"""The threads of a worker's loop. What LiteLLM hands to them without need runs on the loop instead.

`litellm.acompletion` has a thread make the request, as some providers' credentials are fetched meanwhile. Where nothing
is fetched, the hops to the thread and back cost a fifth of the crew's own time, and all other runs wait for the lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

from callboard_runtime.llm.provider import SCRIPTED

NOTHING_FETCHED = frozenset({"openai", "deepseek", "openrouter", SCRIPTED})
"""Providers whose requests are made of what was given, without any input or output."""


_DELEGATIONS: WeakKeyDictionary[asyncio.AbstractEventLoop, ThreadPoolExecutor] = WeakKeyDictionary()


def delegation_threads(loop: asyncio.AbstractEventLoop) -> ThreadPoolExecutor:
    """The loop's threads for delegations, which sit in them until a coworker is done.

    The coworker's tools and requests need the default executor's: among as many delegations as that has threads,
    nothing would go on. Only managers delegate, so none waits in here for another.
    """
    if (threads := _DELEGATIONS.get(loop)) is None:
        threads = _DELEGATIONS[loop] = ThreadPoolExecutor(thread_name_prefix="delegation")
    return threads


class LoopThreads(ThreadPoolExecutor):
    """A loop's default executor; as many threads again are for the loop's delegations, and are closed with it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, most: int) -> None:
        super().__init__(most, thread_name_prefix="crew")
        self._delegations = _DELEGATIONS[loop] = ThreadPoolExecutor(most, thread_name_prefix="delegation")

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work, delegations included; the loop does it when it is closed."""
        super().shutdown(wait, cancel_futures=cancel_futures)
        self._delegations.shutdown(wait, cancel_futures=cancel_futures)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run `fn` in a thread, or at once if it only makes a request."""
        return _at_once(fn) if only_makes_request(fn) else super().submit(fn, *args, **kwargs)


def only_makes_request(fn: Callable[..., Any]) -> bool:
    """Whether it is `acompletion`'s `partial(context.run, partial(completion, model=…))` for such a provider."""
    import litellm.main

    inner: Any = fn.args[0] if isinstance(fn, partial) and fn.args else None
    if not isinstance(inner, partial) or inner.func is not litellm.main.completion:  # pyright: ignore[reportUnknownMemberType]
        return False
    return str(inner.keywords.get("model", "")).partition("/")[0] in NOTHING_FETCHED


def _at_once(fn: Callable[[], Any]) -> Future[Any]:
    """A future of the loop's own that is done: the loop takes it as it is, and whoever awaits it goes on at once."""
    future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    try:
        future.set_result(fn())
    except Exception as error:  # noqa: BLE001 - who awaits it raises it
        future.set_exception(error)
    return cast("Future[Any]", future)
