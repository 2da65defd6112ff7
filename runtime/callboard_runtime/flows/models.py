"""In: `litellm.acompletion` as a flow calls it. Out: the recorded answer, or a metered one, in LiteLLM's form."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import orjson
from crewai.flow.flow_context import current_flow_method_name

from callboard_runtime.config.parts import LlmConfig
from callboard_runtime.config.providers import provider_of
from callboard_runtime.crew.pause import RunStopped
from callboard_runtime.errors import CallboardError, ConfigError
from callboard_runtime.flows.journal import LegJournal
from callboard_runtime.flows.patches import MODELS, JournaledStream
from callboard_runtime.flows.progress import Progress
from callboard_runtime.llm.caller import ModelCaller
from callboard_runtime.llm.client import targets_of
from callboard_runtime.llm.libraries import litellm
from callboard_runtime.llm.messages import ModelAnswer, ModelCall, ToolCall, wire_messages
from callboard_runtime.llm.provider import Target
from callboard_runtime.settings import LlmSettings

# What Callboard decides by itself: how an answer is sent, how often and how long it is asked for, and who is told.
_OURS = frozenset(
    {"stream", "stream_options", "num_retries", "max_retries", "timeout", "request_timeout", "fallbacks", "metadata"}
    | {"no-log", "caching", "cache", "logger_fn", "shared_session", "api_key", "api_base", "base_url"}
)


class FlowModels:
    """The model calls of one run's flow. Raises RunStopped, which neither CrewAI nor a flow catches."""

    def __init__(
        self, caller: ModelCaller, journal: LegJournal, progress: Progress, settings: LlmSettings, llm: LlmConfig | None
    ) -> None:
        self._caller, self._journal, self._progress = caller, journal, progress
        self._settings, self._llm = settings, llm

    async def complete(self, model: str, messages: Sequence[Any] = (), **options: Any) -> Any:
        """As `litellm.acompletion`."""
        try:
            targets = self._targets(model, options)
            call = self._call(model, messages, options)
        except CallboardError as error:
            raise RunStopped(error) from error

        async def ask(*, visible: bool) -> Any:
            return _response(await self._answer(call, targets, visible=visible), model)

        return JournaledStream(ask, _chunks) if options.get("stream") else await ask(visible=False)

    async def _answer(self, call: ModelCall, targets: tuple[Target, ...], *, visible: bool) -> ModelAnswer:
        token = MODELS.set(None)  # what is below is LiteLLM itself
        try:
            with self._journal.claimed(call.digest()):
                await asyncio.sleep(0)  # calls that are made side by side all claim their rows before one is looked up
                await self._progress.commit()
            # The row of this call is looked up before anything else can happen; those of its siblings are claimed.
            answer = await self._caller.answer(call, targets, lambda: self._progress.view(visible=visible))
        except CallboardError as error:
            raise RunStopped(error) from error
        finally:
            MODELS.reset(token)
        if answer.message_id:
            self._progress.answered(answer, list(filter(call.valid, answer.tool_calls)))
        return answer

    def _call(self, model: str, messages: Sequence[Any], options: Mapping[str, Any]) -> ModelCall:
        if (options.get("n") or 1) != 1:
            raise ConfigError("a flow asks for one answer at a time; leave `n` out of litellm.acompletion")
        tools = tuple(_plain(tool) for tool in options.get("tools") or ())
        names = {str(tool["function"]["name"]): str(tool["function"]["name"]) for tool in tools}
        method = current_flow_method_name.get()
        return ModelCall(
            path=f"{self._journal.prefix}{method}",
            stage=method,
            messages=wire_messages([_plain(message) for message in messages]),
            tools=tools,
            model=model,
            names=names,
            valid=lambda call: call.name in names and _is_object(call.arguments),
        )

    def _targets(self, model: str, options: Mapping[str, Any]) -> tuple[Target, ...]:
        params = {
            key: value
            for key, value in options.items()
            if key not in _OURS and key != "tools" and value is not None and not (key == "n" and value == 1)
        }
        if not options.get("tools"):
            params.pop("tool_choice", None)
            params.pop("parallel_tool_calls", None)
        config = self._llm or _named(model)
        targets = targets_of(config, self._settings)
        if self._llm is None:
            targets = tuple(_own(target, options) for target in targets)
        return tuple(replace(target, params={**target.params, **params}) for target in targets)


def _named(model: str) -> LlmConfig:
    """The model that the flow names, as LiteLLM would understand it."""
    provider = provider_of(model)
    if provider is None:
        find = cast(Callable[..., tuple[str, str, Any, Any]], litellm.get_llm_provider)  # pyright: ignore[reportUnknownMemberType]
        try:
            _, provider, *_ = find(model)
        except Exception:  # noqa: BLE001 - LiteLLM raises its own BadRequestError, with a page of advice
            raise ConfigError(f"the flow asks for model {model!r}; write it as provider/model") from None
        model = f"{provider}/{model}"
    return LlmConfig(model_code=model, provider=provider, model=model, context_window=1)


def _own(target: Target, options: Mapping[str, Any]) -> Target:
    """The target with the key and the address that the flow itself passed."""
    base = options.get("api_base") or options.get("base_url")
    return replace(target, api_key=options.get("api_key") or target.api_key, api_base=base or target.api_base)


def _plain(value: Any) -> dict[str, Any]:
    """A message or a tool as a mapping: flows keep LiteLLM's own objects in their state."""
    dump = getattr(value, "model_dump", None)
    given = cast("dict[str, Any]", dump(exclude_none=True) if dump is not None else value)
    return orjson.loads(orjson.dumps({k: v for k, v in given.items() if k != "id" or "role" not in given}, default=str))


def _is_object(arguments: str) -> bool:
    try:
        return isinstance(orjson.loads(arguments or "{}"), dict)
    except orjson.JSONDecodeError:
        return False


def _response(answer: ModelAnswer, model: str) -> Any:
    calls = [_wire(call) for call in answer.tool_calls]
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "tool_calls": calls or None}
    choice = {"index": 0, "finish_reason": "tool_calls" if calls else answer.finish, "message": message}
    return litellm.ModelResponse(id=answer.message_id or None, model=model, choices=[choice])


def _wire(call: ToolCall) -> dict[str, Any]:
    """The call under our id, which is unique: what the flow appends is what the client is shown."""
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _chunks(response: Any) -> list[Any]:
    """The whole answer as a stream of two chunks, for a flow that reads it by itself."""
    message = response.choices[0].message
    delta: dict[str, Any] = {"role": "assistant", "content": message.content or None}
    if message.tool_calls:
        calls = [call.model_dump() for call in message.tool_calls]
        delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    return [_chunk(response, delta, None), _chunk(response, {}, response.choices[0].finish_reason)]


def _chunk(response: Any, delta: dict[str, Any], finish: str | None) -> Any:
    choice: Any = {"index": 0, "delta": delta, "finish_reason": finish}
    return litellm.ModelResponseStream(id=response.id, model=response.model, choices=[choice])
