"""In: a model call and where to send it. Out: the deltas of its streamed answer, through LiteLLM."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeGuard, cast

from callboard_runtime.llm.libraries import (
    AsyncStream,
    OpenAIChatCompletionStreamingHandler,
    OpenRouterChatCompletionStreamingHandler,
    litellm,
)
from callboard_runtime.llm.messages import CallDelta, Delta, ModelCall, Usage
from callboard_runtime.llm.setup import load_tokenizer
from callboard_runtime.llm.sse import openai_chunks
from callboard_runtime.pacing import Step, turn

SCRIPTED = "callboard-scripted"


@dataclass(frozen=True, slots=True)
class Target:
    """One model at one provider, with what it takes to reach it."""

    provider: str
    model: str  # as LiteLLM names it
    api_key: str | None = field(default=None, repr=False)
    api_base: str | None = None
    params: Mapping[str, Any] = field(default_factory=dict[str, Any])
    input_price: Any = None  # Decimal per token
    output_price: Any = None
    cached_price: Any = None


async def stream(call: ModelCall, target: Target, timeout: float) -> AsyncGenerator[Delta]:
    """Send the request and yield its answer piece by piece; raises whatever LiteLLM or the provider's SDK raises.

    `timeout` is in seconds and bounds single reads; the caller bounds the whole.
    """
    await turn(Step.REQUEST)
    response = await litellm.acompletion(**_arguments(call, target, timeout))  # pyright: ignore[reportUnknownMemberType]
    raw = getattr(response, "completion_stream", None)
    deltas = _short_way(raw) if is_openai_shaped(raw, target.provider) else _litellms_way(response)
    try:
        async with aclosing(deltas):
            async for delta in deltas:
                yield delta
    finally:
        close = getattr(raw, "close", None) or getattr(raw, "aclose", None)
        if close is not None and inspect.isawaitable(closing := close()):
            await closing


def _arguments(call: ModelCall, target: Target, timeout: float) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        **target.params,
        "model": target.model,
        "messages": [dict(message) for message in call.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "num_retries": 0,
        "max_retries": 0,  # the SDKs below LiteLLM would retry by themselves, and nobody would count it
        "timeout": timeout,
        "no-log": True,
    }
    if call.tools:
        arguments["tools"] = list(call.tools)
    if target.api_key is not None:
        arguments["api_key"] = target.api_key
    if target.api_base is not None:
        arguments["api_base"] = target.api_base
    if target.provider == SCRIPTED:
        arguments["metadata"] = {"stage": call.stage, "user_text": call.user_text}
    return arguments


async def _short_way(raw: Any) -> AsyncGenerator[Delta]:
    """The provider's own chunks, where they are already OpenAI-shaped.

    LiteLLM's wrapper around them costs more than the rest of a run together, and changes nothing about such chunks.
    """
    if _is_openais(raw):
        async for chunks in openai_chunks(raw):
            for delta in joined(read_chunk(chunk) for chunk in chunks):
                yield delta
        return
    async for chunk in raw:
        if (delta := read_chunk(chunk)) is not None:
            yield delta


def joined(deltas: Iterable[Delta | None]) -> Iterator[Delta]:
    """The deltas that say something; neighbours that only have text become one."""
    text: list[str] = []
    for delta in deltas:
        if delta is None:
            continue
        if delta.text and delta == Delta(delta.text):
            text.append(delta.text)
            continue
        if text:
            yield Delta("".join(text))
            text.clear()
        yield delta
    if text:
        yield Delta("".join(text))


async def _litellms_way(response: Any) -> AsyncGenerator[Delta]:
    """LiteLLM's normalised chunks, without the end and the token count that it makes up where none were sent."""
    if not load_tokenizer.cache_info().currsize:
        await asyncio.to_thread(load_tokenizer)  # else LiteLLM does it, and all other streams wait
    usage: Usage | None = None
    async for chunk in response:
        delta = read_chunk(chunk)
        if delta is None:
            continue
        usage = delta.usage or usage
        if delta.text or delta.reasoning or delta.calls:
            yield Delta(delta.text, delta.reasoning, delta.calls)
    counted = any(getattr(chunk, "usage", None) is not None for chunk in response.chunks)
    yield Delta(finish=response.received_finish_reason, usage=usage if counted else None)


def is_openai_shaped(raw: Any, provider: str) -> bool:
    """Whether a LiteLLM response's inner stream yields OpenAI's chunks unchanged."""
    if provider == SCRIPTED:
        return hasattr(raw, "__aiter__")
    handlers = (OpenAIChatCompletionStreamingHandler, OpenRouterChatCompletionStreamingHandler)
    return _is_openais(raw) or isinstance(raw, handlers)


def _is_openais(raw: Any) -> TypeGuard[AsyncStream[Any]]:
    """Whether it is the SDK's own stream, and of its usual class: another one may read its bytes in another way."""
    return type(raw) is AsyncStream


def read_chunk(chunk: Any) -> Delta | None:
    """One OpenAI-shaped chunk (plain, an SDK's or LiteLLM's) as a delta; None when it carries nothing."""
    choices = _member(chunk, "choices")
    usage = read_usage(_member(chunk, "usage"))
    if not choices:
        return Delta(usage=usage) if usage is not None else None
    piece = _member(choices[0], "delta")
    finish = _member(choices[0], "finish_reason")
    text = _member(piece, "content") or ""
    reasoning = _member(piece, "reasoning_content") or _member(piece, "reasoning") or ""
    calls = tuple(_call(item) for item in _member(piece, "tool_calls") or ())
    if not (text or reasoning or calls or finish or usage):
        return None
    return Delta(_text(text), _text(reasoning), calls, finish, usage)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "".join(str(part.get("text", "")) for part in value)


def _call(item: Any) -> CallDelta:
    function = _member(item, "function")
    return CallDelta(
        _member(item, "index") or 0,
        _member(item, "id"),
        _member(function, "name"),
        _member(function, "arguments") or "",
    )


def read_usage(usage: Any) -> Usage | None:
    """Token counts from any form of OpenAI's usage object; None when there is none."""
    if usage is None:
        return None
    return Usage(
        input_tokens=_count(_member(usage, "prompt_tokens")),
        output_tokens=_count(_member(usage, "completion_tokens")),
        cached_tokens=_count(_member(_member(usage, "prompt_tokens_details"), "cached_tokens")),
        reasoning_tokens=_count(_member(_member(usage, "completion_tokens_details"), "reasoning_tokens")),
    )


def _member(holder: Any, name: str) -> Any:
    if type(holder) is dict or isinstance(holder, Mapping):  # the first for speed: it is asked for every token
        return cast(Mapping[str, Any], holder).get(name)
    return getattr(holder, name, None)


def _count(value: Any) -> int:
    return max(0, int(value)) if isinstance(value, int | float) else 0
