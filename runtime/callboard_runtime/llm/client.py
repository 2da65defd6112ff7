"""The language model of a CrewAI agent: CrewAI asks it, it asks LiteLLM, and everything is journaled and metered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydantic import PrivateAttr

from callboard_runtime.config.parts import LlmConfig, ModelConfig
from callboard_runtime.crew.context import PLACE, Place
from callboard_runtime.crew.pause import RunStopped
from callboard_runtime.errors import CallboardError
from callboard_runtime.llm.caller import ModelCaller, View
from callboard_runtime.llm.libraries import BaseLLM
from callboard_runtime.llm.messages import ModelAnswer, ModelCall, ToolCall, estimate_tokens, wire_messages
from callboard_runtime.llm.prices import listed_prices
from callboard_runtime.llm.provider import Target
from callboard_runtime.settings import LlmSettings


class CallboardLLM(BaseLLM):
    """One stage's model for one run. Raises RunStopped out of CrewAI, never an Exception that it would swallow."""

    llm_type: str = "callboard"

    _stage: str = PrivateAttr()
    _caller: ModelCaller = PrivateAttr()
    _targets: tuple[Target, ...] = PrivateAttr()
    _view: Callable[[Place], View] = PrivateAttr()
    _window: int = PrivateAttr()
    _loop: asyncio.AbstractEventLoop | None = PrivateAttr(default=None)
    _history: tuple[Mapping[str, Any], ...] = PrivateAttr(default=())
    _user_text: str = PrivateAttr(default="")

    @classmethod
    def make(
        cls,
        stage: str,
        config: LlmConfig,
        settings: LlmSettings,
        caller: ModelCaller,
        view: Callable[[Place], View],
        *,
        history: Sequence[Mapping[str, Any]] = (),
        user_text: str = "",
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> CallboardLLM:
        """Make the model of `stage`; `history` is sent between the system prompt and the task's prompt."""
        llm = cls(model=config.model, provider=config.provider, stream=True)
        llm._stage, llm._caller, llm._view, llm._loop = stage, caller, view, loop
        llm._targets = targets_of(config, settings)
        llm._window = config.context_window
        llm._history = wire_messages(list(history))
        llm._user_text = user_text
        return llm

    async def answer(
        self,
        messages: str | Sequence[Mapping[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        names: Mapping[str, str] | None = None,
        valid: Callable[[ToolCall], bool] = lambda _: True,
    ) -> ModelAnswer:
        """Ask the model; `names` maps the tools' wire names to their own, `valid` says which calls may be shown.

        Runs on the worker's loop.
        """
        place = PLACE.get() or Place(self._stage)
        given = wire_messages(messages)
        call = ModelCall(
            path=place.path,
            stage=self._stage,
            messages=given if place.below else self._with_history(given),
            tools=tuple(tools),
            model=self.model,
            names=names or {},
            user_text=self._user_text,
            valid=valid,
        )
        try:
            return await self._caller.answer(call, self._targets, lambda: self._view(place))
        except CallboardError as error:
            raise RunStopped(error) from error

    def _with_history(self, messages: tuple[dict[str, Any], ...]) -> tuple[Mapping[str, Any], ...]:
        system = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
        return (*messages[:system], *self._history, *messages[system:])

    async def acall(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        """CrewAI's own way to ask: text, or tool calls in OpenAI's form."""
        answer = await self.answer(messages, tools or ())
        return [call.to_wire() for call in answer.tool_calls] or answer.text

    def call(self, messages: Any, tools: Any = None, *_: Any, **__: Any) -> Any:
        """The same from one of CrewAI's threads; raises RuntimeError on the loop's own thread, which it would block."""
        if self._loop is None:
            raise RuntimeError("this model was made without a loop to run on")
        if _running_loop() is self._loop:
            raise RuntimeError("call() would block the event loop; await acall()")
        return asyncio.run_coroutine_threadsafe(self.acall(messages, tools), self._loop).result()

    def supports_function_calling(self) -> bool:
        return True

    def supports_stop_words(self) -> bool:
        return False

    def get_context_window_size(self) -> int:
        return self._window

    def get_input_tokens_count(self, messages: Any, tools: Any = None, response_model: Any = None) -> int:
        return estimate_tokens(sum(len(str(message)) for message in wire_messages(messages)))


def targets_of(config: LlmConfig, settings: LlmSettings) -> tuple[Target, ...]:
    """The configured model and its fallbacks, with keys and addresses from the settings."""
    params = config.params.request()
    return tuple(_target(model, params, settings) for model in (config, *config.fallbacks))


def _target(model: ModelConfig, params: dict[str, Any], settings: LlmSettings) -> Target:
    provider = model.provider
    base = settings.api_base.get(provider)
    prices = (model.input_price, model.output_price, model.cached_price)
    if prices[0] is None and base is None:  # a server of one's own does not charge the listed price
        prices = listed_prices(model.model, provider)
    key = settings.provider_keys.of(provider)
    return Target(provider, model.model, key, base, params, *prices)


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
