"""The crew itself: the crew that a Callboard worker runs, with the same LiteLLM call, in a warm process. No road.

In:  `POST /run` with the user's text
Out: when the crew was kicked off, and when its first piece of text was there (Unix seconds)

What it would journal stays in memory, what it would send is only looked at.
"""

from __future__ import annotations

import os
import sys
import time
import uuid

from aiohttp import web

os.environ |= {
    "CALLBOARD_LLM__API_BASE__OPENAI": sys.argv[2],
    "CALLBOARD_LLM__PROVIDER_KEYS__OPENAI": "none",
    "CALLBOARD_LLM__DEFAULT_MODEL": "openai/bench",
}

from callboard_runtime.agui.stream import RunStream
from callboard_runtime.config.loader import resolve_rows
from callboard_runtime.crew.memory_journal import MemoryJournal
from callboard_runtime.crew.runtime import CrewAIRuntime, prepare_loop
from callboard_runtime.domain.event_batch import AguiEvent
from callboard_runtime.domain.run_input import RunInput
from callboard_runtime.entry.brief import HistoryMessage, RunBrief
from callboard_runtime.garbage import leave_loaded_alone
from callboard_runtime.llm.setup import warm_up
from callboard_runtime.settings import Settings

AGENT = "chat"
SETTINGS = Settings()


class FirstText:
    """A sink that only knows when the first text came."""

    def __init__(self) -> None:
        self.at: float | None = None

    def emit(self, event: AguiEvent) -> None:
        if self.at is None and event["type"] == "TEXT_MESSAGE_CONTENT":
            self.at = time.time()


def brief(text: str) -> RunBrief:
    return RunBrief(
        session_id=uuid.uuid4(),
        run_id=uuid.uuid4(),
        user_id="bench",
        thread_id="thread",
        leg_run_id="run",
        agent_id=AGENT,
        leg=1,
        config=resolve_rows((), AGENT, SETTINGS),
        input=RunInput(),
        history=(HistoryMessage("user", text),),
    )


async def run(request: web.Request) -> web.Response:
    given, first = brief(await request.text()), FirstText()
    called = time.time()
    outcome = await CrewAIRuntime(given, MemoryJournal(), RunStream(first), SETTINGS).run()
    return web.json_response({"called": called, "first": first.at, "status": outcome.status, "text": outcome.text})


async def healthz(_: web.Request) -> web.Response:
    return web.Response(text="ok")


async def prepare(_: web.Application) -> None:
    import asyncio

    prepare_loop(asyncio.get_running_loop(), SETTINGS.worker.concurrency)


if __name__ == "__main__":
    import uvloop

    warm_up(SETTINGS)
    leave_loaded_alone()
    app = web.Application()
    app.on_startup.append(prepare)
    app.router.add_post("/run", run)
    app.router.add_get("/healthz", healthz)
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None, access_log=None, loop=uvloop.new_event_loop())
