"""An OpenAI-compatible server in a process of its own: what it does to a request is named by the model, as in `ok`.

Run it as a program: it prints its port, then serves until its standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from aiohttp import web

LOG: list[dict[str, Any]] = []
WORDS = ["Hel", "lo ", "wör", "ld"]
USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def chunk(delta: dict[str, Any], finish: str | None = None, **extra: Any) -> str:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    body = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice], **extra}
    return f"data: {json.dumps(body)}\n\n"


def call(index: int, **members: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, **members}]}


def text_stream() -> list[str]:
    return [chunk({"role": "assistant", "content": ""}), *[chunk({"content": word}) for word in WORDS]]


def tool_stream() -> list[str]:
    return [
        chunk({"role": "assistant", "content": "Let me look. "}),
        chunk(call(0, id="call_0", type="function", function={"name": "search", "arguments": ""})),
        chunk(call(0, function={"arguments": '{"q": '})),
        chunk(call(0, function={"arguments": '"x"}'})),
        chunk(call(1, id="call_1", type="function", function={"name": "add", "arguments": '{"a": 1}'})),
    ]


def tail(finish: str = "stop") -> list[str]:
    usage = {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], "usage": USAGE}
    return [chunk({}, finish), f"data: {json.dumps(usage)}\n\n", "data: [DONE]\n\n"]


STREAMS = {
    "ok": [*text_stream(), *tail()],
    "tools": [*tool_stream(), *tail("tool_calls")],
    "reasoning": [chunk({"reasoning_content": "I "}), chunk({"reasoning_content": "think."}), *text_stream(), *tail()],
    "nousage": [*text_stream(), chunk({}, "stop"), "data: [DONE]\n\n"],
    "nul": [chunk({"content": "a\0b"}), chunk({"content": "\ud83d"}), chunk({"content": "\ude00!"}), *tail()],
    "lone": [chunk({"content": "x\ud800y"}), *tail()],
    "empty": tail(),
    "refused": tail("content_filter"),
    "garbage": ["data: <html>not json</html>\n\n"],
    "broken": [*text_stream()],
    "late-error": ["".join([*text_stream(), 'data: {"error": {"message": "overloaded"}}\n\n'])],  # in one read
}
ERRORS = {
    "401": (401, "Incorrect API key provided: {key}"),
    "403": (403, "no access for {key}"),
    "429": (429, "slow down, {key}"),
    "500": (500, "oops {key}"),
    "404": (404, "no such model"),
    "context": (400, "This model's maximum context length is 10 tokens"),
}


async def complete(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    model = body["model"]
    key = request.headers.get("authorization", "")
    LOG.append({"model": model, "body": body, "authorized": bool(key)})
    if model in ERRORS:
        status, message = ERRORS[model]
        headers = {"retry-after": "0"} if status == 429 else {}
        error = {"error": {"message": message.format(key=key), "type": "e", "code": "e"}}
        return web.json_response(error, status=status, headers=headers)
    if model == "hang":
        await asyncio.Event().wait()
    if model == "page":
        return web.Response(text="<html>welcome</html>", content_type="text/html")
    return await stream(request, model)


async def stream(request: web.Request, model: str) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    if model == "stall":
        await response.write(chunk({"content": "first"}).encode())
        await asyncio.Event().wait()
    if model == "drip":
        while True:
            await response.write(b": still thinking\n\n")
            await asyncio.sleep(0.05)
    if model.startswith("long"):
        for number in range(int(model.removeprefix("long"))):
            await response.write(chunk({"content": f"w{number} "}).encode())
        await response.write("".join(tail()).encode())
        return response
    for line in STREAMS[model.removeprefix("paced-").removesuffix("-cut")]:
        await response.write(line.encode())
        if model.startswith("paced-"):
            await asyncio.sleep(0.01)  # a model takes its time: what it says comes in more than one read
    if model.endswith("-cut") and request.transport is not None:
        request.transport.abort()
    return response


def anthropic_stream(model: str) -> list[str]:
    usage = {"input_tokens": 11, "output_tokens": 1}
    message = {"id": "m", "type": "message", "role": "assistant", "content": [], "model": model, "usage": usage}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": w}} for w in WORDS),
    ]
    if model != "broken":
        events += [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 7}},
            {"type": "message_stop"},
        ]
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events]


async def messages(request: web.Request) -> web.StreamResponse:
    """Anthropic's wire."""
    body = await request.json()
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for line in anthropic_stream(body["model"]):
        await response.write(line.encode())
    return response


async def log(_: web.Request) -> web.Response:
    return web.json_response(LOG)


async def serve() -> None:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_post("/v1/messages", messages)
    app.router.add_get("/log", log)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve())
