"""Runs a backend tool's function once and turns whatever it does into text for the model."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import logging
import time
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from callboard_runtime.llm.messages import clean
from callboard_runtime.observe.spans import tool_span
from callboard_runtime.observe.worker import tool_called
from callboard_runtime.tools.spec import Tool, ToolContext

logger = logging.getLogger(__name__)

MAX_RESULT_BYTES = 256 * 1024  # as JSON: a command of 1 MiB has it twice, in a record and a message, and more beside it


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call came to; `content` is what the model reads."""

    content: str
    failed: bool = False


async def execute(tool: Tool, arguments: Mapping[str, Any], context: ToolContext, max_bytes: int) -> ToolResult:
    """Call the function; its exceptions, its timeout and a too large result become failed results, never exceptions.

    A function that is not a coroutine runs in a thread, which goes on after a timeout: nothing can stop it.
    """
    began = time.perf_counter()
    with tool_span(tool.name, context.tool_call_id) as span:
        result = await _attempt(tool, arguments, context, max_bytes)
        if result.failed:
            span.fail("tool_failed")
    tool_called(tool.name, failed=result.failed, seconds=time.perf_counter() - began)
    return result


async def _attempt(tool: Tool, arguments: Mapping[str, Any], context: ToolContext, max_bytes: int) -> ToolResult:
    assert tool.function is not None
    limit = asyncio.timeout(tool.timeout)
    try:
        async with limit:
            value = await _call(tool.function, arguments, context)
        return bounded(ToolResult(_as_text(value)), max_bytes)
    except Exception as error:  # a tool is a user's code, which may have timeouts of its own
        if limit.expired():
            return failure(f"no result after {tool.timeout:g} seconds; whether it took effect is not known")
        logger.warning("tool failed", exc_info=error, extra={"action": "tool_failed", "tool": tool.name})
        return failure(f"{type(error).__name__}: {error}"[:2000])


def failure(reason: str) -> ToolResult:
    return ToolResult(f"Error: {clean(reason)}", failed=True)


async def _call(function: Callable[..., Any], arguments: Mapping[str, Any], context: ToolContext) -> Any:
    given = dict(arguments)
    if (name := _context_parameter(function)) is not None:
        given[name] = context
    if inspect.iscoroutinefunction(function):
        return await function(**given)
    run = functools.partial(contextvars.copy_context().run, function, **given)
    value = await asyncio.get_running_loop().run_in_executor(None, run)
    return await value if inspect.isawaitable(value) else value


@functools.lru_cache(maxsize=512)
def _context_parameter(function: Callable[..., Any]) -> str | None:
    try:
        hints = typing.get_type_hints(function)
    except (NameError, TypeError):
        return None
    return next((name for name, hint in hints.items() if hint is ToolContext and name != "return"), None)


def _as_text(value: Any) -> str:
    if isinstance(value, str):
        return clean(value)
    return clean(orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode())


def bounded(result: ToolResult, max_bytes: int) -> ToolResult:
    """The result, or what the model is told in place of one that is larger, as JSON, than `max_bytes` or a command."""
    size, most = len(orjson.dumps(result.content)) - 2, min(max_bytes, MAX_RESULT_BYTES)
    if size > most:
        return failure(f"the result has {size} bytes as JSON, more than the {most} allowed; ask for less")
    return result
