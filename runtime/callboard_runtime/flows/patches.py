"""Leads the model calls of flows to Callboard: inside a flow `litellm.acompletion` is journaled, elsewhere it is plain.

Checked against litellm 1.105 and ag-ui-crewai 1.0; a guard test fails when what is patched here is elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from functools import cache, wraps
from importlib import import_module
from typing import Any, Protocol

from callboard_runtime.crew.pause import RunStopped
from callboard_runtime.errors import ConfigError
from callboard_runtime.llm.libraries import litellm

_ASK = "acompletion"
_OTHER_WAYS = ("completion", "text_completion", "atext_completion", "responses", "aresponses")
_STREAMED = "_copilotkit_stream_custom_stream_wrapper"


class Models(Protocol):
    """Answers a flow's `litellm.acompletion`."""

    async def complete(self, *args: Any, **options: Any) -> Any: ...


class Shown(Protocol):
    """A stream that a flow hands to `copilotkit_stream`."""

    async def shown(self) -> Any: ...


MODELS: ContextVar[Models | None] = ContextVar("callboard_flow_models", default=None)

_instead: dict[int, Any] = {}  # id of a function of LiteLLM's -> what stands in its place
_kept: list[Any] = []  # those functions, so that their ids stay theirs


@cache
def patch_litellm() -> None:
    """Stand in for LiteLLM's ways to ask a model, once per process."""
    _replace(_ASK, _journaled(getattr(litellm, _ASK)))
    for name in _OTHER_WAYS:
        _replace(name, _refused(name, getattr(litellm, name)))


@cache
def patch_sdk() -> None:
    """Have `copilotkit_stream` give our streams back to us: they are shown by who asks the model, as it answers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the web framework that it brings along, which no worker starts
        sdk: Any = import_module("ag_ui_crewai.sdk")
    plain: Callable[[Any], Awaitable[Any]] = getattr(sdk, _STREAMED)

    async def streamed(response: Any) -> Any:
        return await (response.shown() if isinstance(response, JournaledStream) else plain(response))

    setattr(sdk, _STREAMED, streamed)


def rebind(namespace: dict[str, Any]) -> None:
    """Replace what a module imported from LiteLLM by name before it was patched."""
    for name, value in list(namespace.items()):
        if id(value) in _instead:
            namespace[name] = _instead[id(value)]


def _replace(name: str, stand_in: Any) -> None:
    plain = getattr(litellm, name)
    _kept.append(plain)
    _instead[id(plain)] = stand_in
    setattr(litellm, name, stand_in)


def _journaled(plain: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(plain)
    async def acompletion(*args: Any, **options: Any) -> Any:
        models = MODELS.get()
        return await (plain(*args, **options) if models is None else models.complete(*args, **options))

    return acompletion


def _refused(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(plain)
    def other_way(*args: Any, **options: Any) -> Any:
        if MODELS.get() is not None:
            raise RunStopped(ConfigError(f"a flow must await litellm.acompletion; litellm.{name} cannot be journaled"))
        return plain(*args, **options)

    return other_way


class JournaledStream(litellm.CustomStreamWrapper):
    """What `litellm.acompletion(stream=True)` gives a flow; the model is asked when it is read, or `shown`."""

    def __init__(self, ask: Callable[..., Awaitable[Any]], chunks: Callable[[Any], Any]) -> None:
        # Nothing of LiteLLM's wrapper is used but its type, by which `copilotkit_stream` knows a stream.
        self._ask, self._chunks = ask, chunks
        self._left: Any = None

    async def shown(self) -> Any:
        """The whole response, shown to the user while it comes."""
        return await self._ask(visible=True)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        if self._left is None:
            self._left = iter(self._chunks(await self._ask(visible=False)))
        try:
            return next(self._left)
        except StopIteration:
            raise StopAsyncIteration from None
