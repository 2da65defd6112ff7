"""What the compared servers have in common: a run's events to a browser, nothing kept."""

import sys
from collections.abc import AsyncIterator, Callable

import orjson
from aiohttp import web

Answer = Callable[[web.Application, str], AsyncIterator[str]]


def frame(event: dict[str, object]) -> bytes:
    return b"data: " + orjson.dumps(event) + b"\n\n"


def serve(answer: Answer, start: Callable[[web.Application], object] | None = None) -> None:
    """Serve `POST /run`: a RunAgentInput in, AG-UI events out; `answer` gives the text of the reply, piece by piece."""
    import uvloop

    async def run(request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        named = {"threadId": body["threadId"], "runId": body["runId"]}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"})
        await response.prepare(request)
        await response.write(frame({"type": "RUN_STARTED", **named}))
        await response.write(frame({"type": "TEXT_MESSAGE_START", "messageId": "m", "role": "assistant"}))
        async for piece in answer(request.app, body["messages"][-1]["content"]):
            await response.write(frame({"type": "TEXT_MESSAGE_CONTENT", "messageId": "m", "delta": piece}))
        await response.write(frame({"type": "TEXT_MESSAGE_END", "messageId": "m"}))
        await response.write(frame({"type": "RUN_FINISHED", **named}))
        return response

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    app = web.Application()
    app.router.add_post("/run", run)
    app.router.add_get("/healthz", healthz)
    if start is not None:
        app.on_startup.append(start)  # type: ignore[arg-type]
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=uvloop.new_event_loop())
