"""What people write first: LiteLLM, and its chunks to the browser. Nothing kept, nobody else can follow."""

import sys
from collections.abc import AsyncIterator

import litellm
from aiohttp import web

from benchmarks.programs.sse import serve

MODEL = sys.argv[2]
litellm.suppress_debug_info = True


async def answer(_: web.Application, text: str) -> AsyncIterator[str]:
    chunks = await litellm.acompletion(
        model="openai/bench",
        api_base=MODEL,
        api_key="none",
        stream=True,
        stream_options={"include_usage": True},
        messages=[{"role": "user", "content": text}],
    )
    async for chunk in chunks:
        if chunk.choices and (piece := chunk.choices[0].delta.content):
            yield piece


if __name__ == "__main__":
    serve(answer)
