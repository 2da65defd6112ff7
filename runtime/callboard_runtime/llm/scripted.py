"""The scripted model: a LiteLLM provider that answers from YAML scripts, streams, calls tools and fails on request.

It serves the embedded default and the tests; a request reaches it the way it would reach any provider.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, cast

import httpx
import orjson

from callboard_runtime.errors import ConfigError
from callboard_runtime.llm.libraries import CustomLLM, CustomLLMError, ModelResponseStream, litellm
from callboard_runtime.llm.messages import estimate_tokens
from callboard_runtime.llm.provider import SCRIPTED
from callboard_runtime.llm.scripts import Plan, Script, choose, load_scripts
from callboard_runtime.settings import LlmSettings

_TOKEN = re.compile(r"\s*\S+|\s+$")
_ARGUMENT_PIECE = 12  # characters of tool arguments per token


def register(settings: LlmSettings) -> None:
    """Make LiteLLM know the scripted model with these settings' scripts and ledger; raises ConfigError for bad scripts.

    The first call with the same two settings counts; with others, it replaces the model for the whole process.
    """
    known = [item["custom_handler"] for item in litellm.custom_provider_map if item["provider"] == SCRIPTED]
    if any(isinstance(model, ScriptedModel) and model.serves(settings) for model in known):
        return
    others = [item for item in litellm.custom_provider_map if item["provider"] != SCRIPTED]
    litellm.custom_provider_map = [*others, {"provider": SCRIPTED, "custom_handler": ScriptedModel(settings)}]


class ScriptedModel(CustomLLM):
    """Answers as its scripts say. Notes each request in the ledger before it answers, one JSON line each."""

    def __init__(self, settings: LlmSettings) -> None:
        super().__init__()
        self._source = settings.scripts
        self._scripts = load_scripts(settings.scripts)
        self._ledger = settings.ledger
        self._failed: Counter[str] = Counter()  # request digest -> errors it met, for replies that fail only so often

    def serves(self, settings: LlmSettings) -> bool:
        return (self._source, self._ledger) == (settings.scripts, settings.ledger)

    async def astreaming(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]  # LiteLLM calls it with keywords and iterates what it returns
        asked = _Asked(kwargs)
        plan = _chosen(self._scripts, asked)
        self._note(asked, plan)
        error = self._error(plan, asked)
        if error is not None and not plan.after:
            await _fail(error)
        for sent, piece in enumerate(_pieces(plan, asked)):
            if error is not None and sent >= plan.after:
                await _fail(error)
            if plan.pace:
                await asyncio.sleep(plan.pace)
            yield _chunk(piece)
        if error is not None:
            await _fail(error)
        yield _chunk({}, finish="tool_calls" if plan.calls else "stop")
        yield _usage_chunk(plan, asked)

    def _error(self, plan: Plan, asked: _Asked) -> str | None:
        if plan.error is None:
            return None
        self._failed[asked.digest] += 1
        return plan.error if plan.only is None or self._failed[asked.digest] <= plan.only else None

    def _note(self, asked: _Asked, plan: Plan) -> None:
        if self._ledger is None:
            return
        line = {
            "id": uuid.uuid4().hex,
            "pid": os.getpid(),
            "stage": asked.stage,
            "script": plan.script,
            "message": asked.message[:200],
            "digest": asked.digest,
            "input_tokens": _input_tokens(plan, asked),
            "output_tokens": _output_tokens(plan, asked),
        }
        descriptor = os.open(self._ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(descriptor, orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        finally:
            os.close(descriptor)


class _Asked:
    """What a request says that a script can look at."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self.messages: list[dict[str, Any]] = request["messages"]
        parameters = cast(dict[str, Any], request.get("litellm_params") or {})
        about = cast(dict[str, Any], parameters.get("metadata") or {})
        options = cast(dict[str, Any], request.get("optional_params") or {})
        self.tools: list[dict[str, Any]] = options.get("tools") or []
        self.stage = str(about.get("stage") or "")
        self.prompt = _last_user_text(self.messages)
        self.message = str(about.get("user_text") or self.prompt)
        self.digest = hashlib.sha256(orjson.dumps([self.stage, self.messages])).hexdigest()[:16]

    @property
    def rounds(self) -> int:
        """Rounds of tool results after the last user message."""
        newest = self.messages[_last_user(self.messages) + 1 :]
        return sum(1 for message in newest if message.get("role") == "assistant")

    @property
    def tool_result(self) -> str:
        results = [_text(message) for message in self.messages if message.get("role") == "tool"]
        return results[-1] if results else ""

    def wire_name(self, name: str) -> str:
        """The offered tool that a script means by `name`: providers do not allow every character in a name."""
        offered = [str(tool["function"]["name"]) for tool in self.tools]
        plain = re.sub(r"\W", "_", name)
        return next((tool for tool in offered if tool == name or re.sub(r"\W", "_", tool) == plain), name)


def _chosen(scripts: Sequence[Script], asked: _Asked) -> Plan:
    try:
        return choose(scripts, asked.stage, asked.message, asked.rounds, asked.tool_result, asked.prompt)
    except ConfigError as error:
        raise CustomLLMError(status_code=400, message=error.message) from error


def _last_user(messages: Sequence[Mapping[str, Any]]) -> int:
    return max((i for i, message in enumerate(messages) if message.get("role") == "user"), default=-1)


def _last_user_text(messages: Sequence[Mapping[str, Any]]) -> str:
    last = _last_user(messages)
    return _text(messages[last]) if last >= 0 else ""


def _text(message: Mapping[str, Any]) -> str:
    content: Any = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content)


def _pieces(plan: Plan, asked: _Asked) -> list[dict[str, Any]]:
    pieces: list[dict[str, Any]] = [{"reasoning_content": token} for token in _TOKEN.findall(plan.reasoning)]
    pieces += [{"content": token} for token in _TOKEN.findall(plan.text)]
    for index, (name, arguments) in enumerate(plan.calls):
        first = {"name": asked.wire_name(name), "arguments": ""}
        pieces.append({"tool_calls": [_call(index, first, f"call_{uuid.uuid4().hex[:12]}")]})
        for start in range(0, len(arguments), _ARGUMENT_PIECE):
            rest = {"name": None, "arguments": arguments[start : start + _ARGUMENT_PIECE]}
            pieces.append({"tool_calls": [_call(index, rest)]})
    return pieces


def _call(index: int, function: dict[str, Any], call_id: str | None = None) -> dict[str, Any]:
    return {"index": index, "id": call_id, "type": "function", "function": function}


def _chunk(delta: dict[str, Any], finish: str | None = None) -> ModelResponseStream:
    return ModelResponseStream(choices=[{"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": finish}])  # pyright: ignore[reportArgumentType]  # plain members become models


def _usage_chunk(plan: Plan, asked: _Asked) -> ModelResponseStream:
    prompt, completion = _input_tokens(plan, asked), _output_tokens(plan, asked)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": plan.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": len(_TOKEN.findall(plan.reasoning))},
    }
    chunk = _chunk({})
    chunk.usage = litellm.Usage(**usage)  # pyright: ignore[reportAttributeAccessIssue]  # LiteLLM sets it the same way
    return chunk


def _input_tokens(plan: Plan, asked: _Asked) -> int:
    if plan.input_tokens is not None:
        return plan.input_tokens
    return sum(estimate_tokens(len(_text(message))) for message in asked.messages)


def _output_tokens(plan: Plan, asked: _Asked) -> int:
    return plan.output_tokens if plan.output_tokens is not None else len(_pieces(plan, asked))


async def _fail(error: str) -> None:
    match error:
        case "hang":
            await asyncio.Event().wait()
        case "disconnect":
            raise httpx.RemoteProtocolError("the scripted model closed the connection")
        case "garbage":
            raise orjson.JSONDecodeError("the scripted model sends garbage", "<html>", 0)
        case "context":
            raise CustomLLMError(status_code=400, message="context_length_exceeded")
        case _:
            raise CustomLLMError(status_code=int(error), message="as the script says")
