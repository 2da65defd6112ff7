"""The floor: aiohttp straight to the model, aiohttp straight to the browser. No LiteLLM, no crew, nothing kept."""

import sys
from collections.abc import AsyncIterator

import aiohttp
import orjson
from aiohttp import web

from benchmarks.programs.sse import serve

MODEL = sys.argv[2]
HTTP = web.AppKey("http", aiohttp.ClientSession)


async def start(app: web.Application) -> None:
    app[HTTP] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))


async def answer(app: web.Application, text: str) -> AsyncIterator[str]:
    body = {"model": "bench", "stream": True, "messages": [{"role": "user", "content": text}]}
    async with app[HTTP].post(f"{MODEL}/chat/completions", json=body) as response:
        async for line in response.content:
            if line.startswith(b"data: {"):
                for choice in orjson.loads(line[6:])["choices"]:
                    if piece := choice["delta"].get("content"):
                        yield piece


if __name__ == "__main__":
    serve(answer, start)
