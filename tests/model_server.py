"""An OpenAI-compatible model server for tests: it streams, counts what it served, and waits in mid-answer when told to.

A message that contains `hold:<key>` gets its answer in two halves: the second one only after `release(key)`. One with
`pace:<ms>` gets it a word every so many milliseconds; `key:<key>` only names the request. `call:<tool>:<label>`, which
may come several times, is answered with these tool calls first, and with the words once they have results.
"""

import asyncio
import json
import re
import threading
import uuid
from collections.abc import Generator, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

WORDS = ("one", "two", "three", "four", "five", "six")
ANSWER = " ".join(WORDS)
INPUT_TOKENS, OUTPUT_TOKENS = 11, len(WORDS)
_KEY = re.compile(r"(hold|key):([\w-]+)")
_CALL = re.compile(r"call:([\w.]+):([\w-]+)")
_PACE = re.compile(r"pace:(\d+)")

Json = dict[str, Any]


@dataclass
class Served:
    """One request: its key, whether it is held, how many words were sent, and whether the answer is complete."""

    key: str | None
    body: Json
    hold: bool = False
    pace: float = 0.0  # seconds per word
    calls: tuple[tuple[str, str], ...] = ()  # tools and labels to be called instead of an answer
    words: int = 0
    complete: bool = False


class ModelServer:
    """Runs in a thread of its own; everything public may be called from any thread."""

    def __init__(self) -> None:
        self.served: list[Served] = []
        self.url = ""
        self._gates: dict[str, asyncio.Event] = {}
        self._started: Future[None] = Future()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="model-server", daemon=True)

    def start(self) -> None:
        self._thread.start()
        self._started.result(20)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)

    def of(self, key: str) -> list[Served]:
        """The requests with this key, in order of arrival."""
        return [request for request in self.served if request.key == key]

    def held(self, key: str) -> int:
        """How many of them wait in mid-answer, or were cut off there."""
        return sum(1 for request in self.of(key) if request.words and not request.complete)

    def release(self, key: str) -> None:
        """Let these answers go on, now and in later requests."""
        self._loop.call_soon_threadsafe(lambda: self._gate(key).set())

    def _gate(self, key: str) -> asyncio.Event:
        return self._gates.setdefault(key, asyncio.Event())

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._listen())
        self._started.set_result(None)
        self._loop.run_forever()
        self._loop.run_until_complete(self._runner.cleanup())
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application()
        app.add_routes([web.post("/v1/chat/completions", self._answer)])
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body: Json = await request.json()
        assert body.get("stream"), "Callboard streams every answer"
        served = _asked(body)
        self.served.append(served)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await (self._call(response, served) if served.calls else self._speak(response, served))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _call(self, response: web.StreamResponse, served: Served) -> None:
        chunk_id = f"chatcmpl-{uuid.uuid4().hex}"
        calls = [_tool_call(*item) for item in enumerate(served.calls)]
        await _send(response, chunk_id, {"choices": [_choice({"role": "assistant", "tool_calls": calls})]})
        served.complete = True
        await _send(response, chunk_id, {"choices": [_choice({}, "tool_calls")]})
        await _send(response, chunk_id, {"choices": [], "usage": _usage()})

    async def _speak(self, response: web.StreamResponse, served: Served) -> None:
        chunk_id = f"chatcmpl-{uuid.uuid4().hex}"
        for word in _pieces():
            await asyncio.sleep(served.pace)
            if served.words == len(WORDS) // 2 and served.hold and served.key is not None:
                await self._gate(served.key).wait()
            await _send(response, chunk_id, {"choices": [_choice({"role": "assistant", "content": word})]})
            served.words += 1
        served.complete = True
        await _send(response, chunk_id, {"choices": [_choice({}, "stop")]})
        await _send(response, chunk_id, {"choices": [], "usage": _usage()})


def _asked(body: Json) -> Served:
    text = _last_user_text(body["messages"])
    results = body["messages"][-1]["role"] == "tool"
    kind, key = (_KEY.findall(text) or [("", None)])[-1]
    pace = int((_PACE.findall(text) or [0])[-1]) / 1000
    return Served(key, body, kind == "hold", pace, () if results else tuple(_CALL.findall(text)))


def _pieces() -> Iterator[str]:
    for number, word in enumerate(WORDS):
        yield f" {word}" if number else word


def _tool_call(index: int, call: tuple[str, str]) -> Json:
    function = {"name": call[0], "arguments": json.dumps({"label": call[1]})}
    return {"index": index, "id": f"call_{uuid.uuid4().hex[:12]}", "type": "function", "function": function}


def _choice(delta: Json, finish: str | None = None) -> Json:
    return {"index": 0, "delta": delta, "finish_reason": finish}


def _usage() -> Json:
    total = INPUT_TOKENS + OUTPUT_TOKENS
    return {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS, "total_tokens": total}


async def _send(response: web.StreamResponse, chunk_id: str, content: Json) -> None:
    chunk = {"id": chunk_id, "object": "chat.completion.chunk", "created": 1, "model": "held", **content}
    await response.write(f"data: {json.dumps(chunk)}\n\n".encode())


def _last_user_text(messages: list[Json]) -> str:
    texts = [str(message["content"]) for message in messages if message["role"] == "user"]
    return texts[-1] if texts else ""


@contextmanager
def served_model() -> Generator[ModelServer]:
    """A model server, stopped at the end."""
    server = ModelServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()
