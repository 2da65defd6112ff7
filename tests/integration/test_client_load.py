"""The load tester against servers that lose, double, reorder or alter events: it must find out, and stay calm else."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import typer
from aiohttp import web

from callboard_runtime.cli.load import load
from callboard_runtime.load.plan import Plan
from callboard_runtime.load.tester import LoadTest, Outcome
from callboard_runtime.load.users import Tokens

WORDS = 8
Lines = list[tuple[int, dict[str, Any]]]
Spoil = Callable[[Lines], Lines]


class Server:
    """Speaks Callboard's API from memory, and spoils its streams, or its logs, as it is told."""

    def __init__(self, spoil: Spoil = lambda lines: lines, *, refuse: bool = False, pauses: bool = False) -> None:
        self.spoil, self.refuse, self.pauses = spoil, refuse, pauses
        self.runs: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, list[Lines]] = {}
        self.streams = 0
        self.at_once = self.most_at_once = 0

    def app(self) -> web.Application:
        app = web.Application()
        runs = "/api/v1/agent/runs"
        app.router.add_post(runs, self.start)
        app.router.add_get(runs + "/{run}/events", self.events)
        app.router.add_post(runs + "/{run}/resume", self.resume)
        app.router.add_get("/api/v1/agent/sessions/{thread}/events", self.log)
        return app

    async def start(self, request: web.Request) -> web.Response:
        if self.refuse:
            return web.json_response({"code": "LIMIT_EXCEEDED", "detail": "too many"}, status=429)
        body = await request.json()
        self.runs[body["runId"]] = body
        self.sessions.setdefault(body["threadId"], [])
        self._leg(body, last=not self.pauses)
        return self._accepted(body, 1)

    async def resume(self, request: web.Request) -> web.Response:
        body = self.runs[request.match_info["run"]]
        assert [a["status"] for a in (await request.json())["answers"]] == ["approved", "result"]
        self._leg(body, last=True)
        return self._accepted(body, 2)

    def _leg(self, body: dict[str, Any], last: bool) -> None:
        outcome: dict[str, Any] = {"type": "success"}
        if not last:
            outcome = {"type": "interrupt", "interrupts": [{"id": "i1"}], "pendingToolCallIds": ["c1"]}
        text = [{"type": "TEXT_MESSAGE_CONTENT", "delta": f"w{number}"} for number in range(WORDS)]
        events = [{"type": "RUN_STARTED"}, *text, {"type": "RUN_FINISHED", "outcome": outcome}]
        self.sessions[body["threadId"]].append(list(enumerate(events, 1)))

    def _accepted(self, body: dict[str, Any], leg: int) -> web.Response:
        named = {"run_id": body["runId"], "session_id": body["threadId"], "task_id": "t", "status": "queued"}
        return web.json_response({**named, "leg": leg, "events_url": "/"}, status=202)

    async def events(self, request: web.Request) -> web.StreamResponse:
        self.streams += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        thread = self.runs[request.match_info["run"]]["threadId"]
        cursor = request.headers.get("Last-Event-ID", f"{len(self.sessions[thread])}-0")
        epoch, seq = (int(part) for part in cursor.split("-"))
        legs = self.sessions[thread]
        if seq == len(legs[epoch - 1]):
            epoch, seq = epoch + 1, 0
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for number, event in self.spoil([line for line in legs[epoch - 1] if line[0] > seq]):
            await response.write(f"id: {epoch}-{number}\ndata: {json.dumps(event)}\n\n".encode())
            await asyncio.sleep(0)
        self.at_once -= 1
        return response

    async def log(self, request: web.Request) -> web.Response:
        legs = self.sessions[request.match_info["thread"]]
        events = [{"id": f"{e}-{n}", "event": event} for e, leg in enumerate(legs, 1) for n, event in leg]
        return web.json_response({"events": events, "next": None})


@asynccontextmanager
async def serving(server: Server) -> AsyncIterator[str]:
    runner = web.AppRunner(server.app(), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def played(server: Server, **plan: Any) -> Outcome:
    given = {"runs": 12, "duration": None, "concurrency": 3, "patience": 0.5} | plan
    async with serving(server) as url:
        return await LoadTest(url, Plan(**given), Tokens()).run()


async def test_a_good_server_has_no_faults() -> None:
    server = Server()
    outcome = await played(server, runs_per_session=4)
    assert not outcome.broken
    assert len(outcome.samples) == 12
    assert all(sample.ok and sample.events == WORDS + 2 for sample in outcome.samples)
    assert outcome.verified == len(server.sessions) == 3
    assert server.most_at_once <= 3
    marks = outcome.samples[0].marks
    assert marks.accepted is not None
    assert marks.started is not None
    assert marks.token is not None
    assert marks.ended is not None
    assert 0 < marks.accepted < marks.started < marks.token < marks.ended


async def test_cut_streams_are_resumed_without_a_fault() -> None:
    server = Server()
    outcome = await played(server, reconnect_share=1.0, runs=30)
    assert not outcome.broken
    assert server.streams == sum(sample.connections for sample in outcome.samples) > 32


async def test_pauses_are_answered() -> None:
    outcome = await played(Server(pauses=True))
    assert not outcome.broken
    assert all(sample.ok and sample.legs == 2 for sample in outcome.samples)


@pytest.mark.parametrize(
    ("spoil", "word"),
    [
        (lambda lines: lines[:4] + lines[5:], "lost"),
        (lambda lines: lines[:4] + lines[3:], "doubled"),
        (lambda lines: [*lines[:3], lines[4], lines[3], *lines[5:]], "lost"),
        (lambda lines: [(n, {**event, "x": 1}) for n, event in lines], "altered"),
        (
            lambda lines: [*lines[:-1], (lines[-1][0], {"type": "CUSTOM"}), (lines[-1][0] + 1, lines[-1][1])],
            "not in the",
        ),
    ],
)
async def test_a_server_that_spoils_its_streams_is_found_out(spoil: Spoil, word: str) -> None:
    outcome = await played(Server(spoil), runs=3)
    assert outcome.broken
    assert word in str([*outcome.faults, *(fault for sample in outcome.samples for fault in sample.faults)])


async def test_refusals_are_errors_and_no_faults() -> None:
    outcome = await played(Server(refuse=True), runs=4)
    assert not outcome.broken
    assert [sample.error for sample in outcome.samples] == ["LIMIT_EXCEEDED"] * 4
    assert outcome.verified == 0


async def test_an_open_loop_misses_what_it_may_not_hold() -> None:
    outcome = await played(Server(), rate=400.0, runs=40, max_in_flight=1)
    assert len(outcome.samples) + outcome.missed == 40
    assert not outcome.broken


@pytest.fixture
def address(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of a server in a thread of its own: the command brings its own loop."""
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    url = loop.run_until_complete(stack.enter_async_context(serving(request.param)))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield url
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(stack.aclose())
    loop.close()


@pytest.mark.parametrize(
    ("address", "code"),
    [(Server(), 0), (Server(lambda lines: lines[:2] + lines[3:]), 1), (Server(refuse=True), 1)],
    indirect=["address"],
    ids=["good", "lossy", "refusing"],
)
def test_the_command_writes_reports_and_tells_by_its_exit_code(tmp_path: Path, address: str, code: int) -> None:
    page, figures = tmp_path / "load.html", tmp_path / "load.json"
    with pytest.raises(typer.Exit) as caught:
        load(address, runs=3, concurrency=1, report=page, json_file=figures, patience=0.5)
    summary = json.loads(figures.read_text())["summary"]
    assert caught.value.exit_code == code
    assert (summary["succeeded"] == 3) is (code == 0)
    assert "<svg" in page.read_text()
