"""An OpenAI-compatible model that costs almost nothing itself: so many tokens at such a pace, as the message asks.

In:  a chat completion whose last user message contains `64 tokens at 10 ms`, and maybe `key:<name>`
Out: the stream; `/served/<name>` tells when the request came and when each token left (Unix seconds)
"""

import asyncio
import re
import sys
import time

import orjson
from aiohttp import web

ASKED = re.compile(r"(\d+) tokens at (\d+) ms(?:.*?key:([\w-]+))?", re.DOTALL)
SERVED: dict[str, dict[str, object]] = {}


def _chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    base = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    return b"data: " + orjson.dumps({**base, "choices": [choice]}) + b"\n\n"


def _end(tokens: int) -> bytes:
    usage = {"prompt_tokens": 50, "completion_tokens": tokens, "total_tokens": 50 + tokens}
    base = {"id": "chatcmpl-bench", "object": "chat.completion.chunk", "created": 1, "model": "bench"}
    return (
        _chunk({}, "stop") + b"data: " + orjson.dumps({**base, "choices": [], "usage": usage}) + b"\n\ndata: [DONE]\n\n"
    )


TOKENS = [_chunk({"role": "assistant", "content": f"word{number} "}) for number in range(4096)]


async def complete(request: web.Request) -> web.StreamResponse:
    body = orjson.loads(await request.read())
    text = next(str(m["content"]) for m in reversed(body["messages"]) if m["role"] == "user")
    found = ASKED.search(text)
    if found is None:
        return web.json_response({"error": {"message": f"ask for `64 tokens at 10 ms`, not {text[:80]!r}"}}, status=400)
    count, pace = int(found[1]), int(found[2]) / 1000
    received = time.time()
    sent: list[float] = []
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await response.prepare(request)
    due = time.monotonic()
    for number in range(count):
        due += pace
        if (wait := due - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        sent.append(time.time())
        await response.write(TOKENS[number])
    await response.write(_end(count))
    if found[3]:
        SERVED[found[3]] = {"received": received, "sent": sent}
    return response


async def served(request: web.Request) -> web.Response:
    return web.json_response(SERVED.get(request.match_info["name"]))


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


if __name__ == "__main__":
    import uvloop

    app = web.Application()
    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/served/{name}", served)
    app.router.add_get("/healthz", healthz)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=uvloop.new_event_loop())
