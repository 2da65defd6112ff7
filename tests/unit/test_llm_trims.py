"""Each trim still sits where LiteLLM and OpenAI's SDK do what is trimmed, and takes nothing of the request away."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from callboard_runtime.llm import trims
from callboard_runtime.llm.libraries import litellm

PARTS = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": "data:,"}}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
MESSAGES: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": PARTS},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"x": {}}}}}]


async def test_a_request_is_what_the_sdk_would_have_made_of_it() -> None:
    from openai._types import omit
    from openai._utils import async_maybe_transform
    from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming

    body = {"model": "m", "messages": MESSAGES, "tools": TOOLS, "stream": True, "temperature": 0.5, "user": omit}
    assert await trims.given_only(body, None) == await async_maybe_transform(body, CompletionCreateParamsStreaming)


async def test_the_sdk_still_transforms_where_the_trim_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from openai import AsyncOpenAI
    from openai.resources.chat.completions import completions

    assert completions.async_maybe_transform is trims.given_only
    seen: list[object] = []

    async def watched(data: object, kind: object) -> object:
        seen.append(data)
        return await trims.given_only(data, kind)

    monkeypatch.setattr(completions, "async_maybe_transform", watched)
    sent: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return httpx.Response(200, json={"id": "1", "object": "chat.completion", "choices": []})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        client = AsyncOpenAI(api_key="k", base_url="http://model/v1", http_client=http)
        await client.chat.completions.create(model="m", messages=MESSAGES)  # type: ignore[call-overload]
    assert len(seen) == len(sent) == 1
    assert set(httpx.Response(200, content=sent[0].content).json()) == {"model", "messages"}


async def test_litellm_still_looks_back_where_the_trim_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    monkeypatch.setattr(litellm.utils, "update_response_metadata", lambda **given: calls.append(given["result"]))
    await litellm.acompletion(model="gpt-4o-mini", messages=[{"role": "user", "content": "x"}], mock_response="hi")
    assert len(calls) == 1
