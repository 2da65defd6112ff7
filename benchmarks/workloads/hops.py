"""Where the time of an unloaded run goes, hop by hop, and what the road adds to the crew itself."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import aiohttp
import uvloop

from benchmarks.browsers import Target, run_input, session, visit
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import World, say, token
from callboard_runtime.domain.ids import run_uuid, session_uuid
from callboard_runtime.load.stats import spread

USER = "bench"
PACE = 10  # ms per token
WARM = 5  # runs that are not counted
Moments = Mapping[str, float]  # Unix seconds, all of this machine's clock

# Part of the road, hop, and the two moments between which it lies. Those of "crew" are what a crew costs anywhere.
ROAD: tuple[tuple[str, str, str, str], ...] = (
    ("accept", "front: HTTP, token, limits, parsing, what the session has", "posted", "AcceptRun.sent"),
    ("accept", "AcceptRun over RabbitMQ to the actor", "AcceptRun.sent", "AcceptRun.taken"),
    ("accept", "actor: look, decision, commit", "AcceptRun.taken", "AcceptRun.committed"),
    ("wake-up", "relay, from the commit on", "AcceptRun.committed", "wake-up.sent"),
    ("wake-up", "RabbitMQ and Celery, to a thread of the worker", "wake-up.sent", "wake-up.taken"),
    ("start", "worker: reading the run", "wake-up.taken", "brief.read"),
    ("crew", "crew built and kicked off, to its first step", "brief.read", "StartRun.sent"),
    ("start", "StartRun with the first step over RabbitMQ", "StartRun.sent", "StartRun.taken"),
    ("start", "actor: look, decision, commit", "StartRun.taken", "StartRun.committed"),
    ("start", "grant over RabbitMQ", "StartRun.committed", "StartRun.answered"),
    ("first step", "worker: opening of the attempt, to the request", "StartRun.answered", "model.asked"),
    ("crew", "LiteLLM, HTTP to the model", "model.asked", "model.received"),
    ("model", "(the model, to its first token)", "model.received", "model.first"),
    ("crew", "HTTP from the model, LiteLLM", "model.first", "text.read"),
    ("stream", "emitter", "text.read", "text.sent"),
    ("stream", "Redis", "text.sent", "text.kept"),
    ("stream", "RabbitMQ's lane to the front", "text.kept", "text.arrived"),
    ("stream", "front, SSE, browser", "text.arrived", "shown.first"),
)
ELSEWHERE = ("crew", "model")  # parts that are no part of the road
BESIDE: tuple[tuple[str, str, str], ...] = (
    ("202: from the commit to the front", "AcceptRun.committed", "AcceptRun.answered"),
    ("last token, from the model to the browser", "model.last", "shown.last"),
    ("end: last token to FinishRun", "model.last", "FinishRun.sent"),
    ("FinishRun with the answer's record, to its commit", "FinishRun.sent", "FinishRun.committed"),
    ("closing event: commit, relay, front, browser", "FinishRun.committed", "closed"),
    ("whole run as the user sees it", "posted", "closed"),
)


@dataclass(frozen=True)
class Watched:
    """One run: when it passed where, and the seconds that each token took from the model to the browser."""

    ids: tuple[str, str]  # of its session and its own, as the processes name them
    moments: Moments
    tokens: Sequence[float]

    def with_notes(self, notes: Mapping[str, Moments]) -> Watched:
        """The same with what the processes noted of it; raises KeyError when they noted nothing."""
        session_id, run_id = self.ids
        return replace(self, moments={**notes[session_id], **notes[run_id], **self.moments})

    def between(self, begin: str, end: str) -> float:
        return self.moments[end] - self.moments[begin]

    @property
    def first(self) -> float:
        """Seconds to the first token as the user sees it."""
        return self.between("posted", "shown.first")

    def part(self, name: str) -> float:
        return sum(self.between(begin, end) for part, _, begin, end in ROAD if part == name)


@dataclass(frozen=True)
class Places:
    """What is asked: Callboard, the crew itself, and the model, which tells what it served."""

    target: Target
    crew: str
    served: str


def run(world: World, sizes: Sizes) -> Result:
    noted = world.folder / f"hops-{uuid.uuid4().hex}.notes"
    crew, served = world.program("crew", world.model), f"{world.model.removesuffix('/v1')}/served"
    with world.stack("benchmarks.programs.noted", str(noted), actors=1, worker=sizes.workers, http=1) as stack:
        target = Target(f"{stack.url}/api/v1/agent/agui/chat", {"Authorization": f"Bearer {token(USER)}"})
        places = Places(target, f"{crew}/run", served)
        say(f"hops: {sizes.hops} runs and {sizes.hops} crews in turns, one at a time")
        alone, crews = uvloop.run(_in_turns(places, sizes))
        say(f"hops: {sizes.hops} runs, {sizes.hops_at_once} at once")
        crowd = uvloop.run(_crowd(places, sizes))
    notes = _read(noted)
    alone, crowd = [run.with_notes(notes) for run in alone], [run.with_notes(notes) for run in crowd]
    found = {1: alone, sizes.hops_at_once: crowd}
    tables = (
        Table("Time to first token, unloaded: the road and the crew itself", tuple(_compared(alone, crews))),
        Table("Milliseconds per hop, to the first token", tuple(_hop_rows(found))),
        Table("Milliseconds beside and behind it", tuple(_beside_rows(found))),
        Table("Milliseconds of every token from the model to the browser", tuple(_token_rows(found))),
    )
    return Result("hops", tables, NOTES)


NOTES = (
    "The crew itself is the same crew with the same LiteLLM call in a warm process of its own, with its journal in "
    "memory: from the kick-off to the first piece of text. It runs in turns with Callboard, whose figure is from the "
    "POST to the first text on the browser's socket; what the road adds is the difference of neighbours. The model's "
    f"{PACE} ms to its first token are in both.",
    "Hops lie between moments that the processes note as a run passes; all moments are of this machine's one clock.",
)


async def _in_turns(places: Places, sizes: Sizes) -> tuple[list[Watched], list[float]]:
    """Runs and crews one after the other; the seconds to the first text of the crews."""
    runs: list[Watched] = []
    crews: list[float] = []
    async with session() as http:
        for number in range(-WARM, sizes.hops):
            watched, crew = await _one(http, places, sizes.tokens), await _crew(http, places, sizes.tokens)
            if number >= 0:
                runs.append(watched)
                crews.append(crew)
    return runs, crews


async def _crowd(places: Places, sizes: Sizes) -> list[Watched]:
    left = itertools.count(1)
    found: list[Watched] = []

    async def user() -> None:
        async with session() as http:
            await _one(http, places, sizes.tokens)  # the first one fills caches
            while next(left) <= sizes.hops:
                found.append(await _one(http, places, sizes.tokens))

    await asyncio.gather(*(user() for _ in range(sizes.hops_at_once)))
    return found


async def _crew(http: aiohttp.ClientSession, places: Places, tokens: int) -> float:
    async with http.post(places.crew, data=f"{tokens} tokens at {PACE} ms") as response:
        told = await response.json()
    if told["text"].split() != [f"word{number}" for number in range(tokens)]:
        raise RuntimeError(f"a crew's text is not whole: {told}")
    return told["first"] - told["called"]


async def _one(http: aiohttp.ClientSession, places: Places, tokens: int) -> Watched:
    key = uuid.uuid4().hex
    body = run_input(f"{tokens} tokens at {PACE} ms, key:{key}", key)
    posted = time.time()
    seen = await visit(http, places.target, body, tokens)
    if seen.error:
        raise RuntimeError(f"a run failed: {seen.error}")
    async with http.get(f"{places.served}/{key}") as response:
        model = await response.json()
    sent: list[float] = model["sent"]
    shown = [posted + at for at, text in zip(seen.arrivals, seen.text, strict=True) for _ in text.split()]
    moments = {
        "posted": posted,
        "model.received": model["received"],
        "model.first": sent[0],
        "model.last": sent[-1],
        "shown.first": shown[0],
        "shown.last": shown[-1],
        "closed": posted + seen.marks["RUN_FINISHED"],
    }
    ids = str(session_uuid(USER, str(body["threadId"]))), str(run_uuid(USER, key))
    return Watched(ids, moments, [later - earlier for earlier, later in zip(sent, shown, strict=True)])


def _read(noted: Path) -> dict[str, dict[str, float]]:
    """By session or run, the first time of each mark."""
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for line in noted.read_text().splitlines():
        mark, name, at = line.split(" ")
        found[name].setdefault(mark, float(at))
    return found


def _compared(runs: Sequence[Watched], crews: Sequence[float]) -> Iterator[Row]:
    parts = list(dict.fromkeys(part for part, *_ in ROAD))
    yield _times("Callboard: POST to the first text in the browser", [run.first for run in runs])
    yield _times("the crew itself: kick-off to its first text", crews)
    yield _times("added by the road", [run.first - crew for run, crew in zip(runs, crews, strict=True)])
    for name in parts:
        whose = "of its crew's time" if name in ELSEWHERE else "of the road"
        yield _times(f"{whose}: {name}", [run.part(name) for run in runs])


def _times(what: str, seconds: Iterable[float]) -> Row:
    times = spread(1000 * each for each in seconds)
    assert times is not None
    return {"what": what, "p50 ms": times.p50, "p95 ms": times.p95}


def _hop_rows(found: Mapping[int, Sequence[Watched]]) -> Iterator[Row]:
    for part, hop, begin, end in ROAD:
        yield {"part": part, "hop": hop, **_columns(found, begin, end)}
    yield {"part": "", "hop": "TTFT as the user sees it", **_columns(found, "posted", "shown.first")}


def _beside_rows(found: Mapping[int, Sequence[Watched]]) -> Iterator[Row]:
    return ({"what": what, **_columns(found, begin, end)} for what, begin, end in BESIDE)


def _token_rows(found: Mapping[int, Sequence[Watched]]) -> Iterator[Row]:
    for at_once, runs in found.items():
        times = spread(1000 * each for run in runs for each in run.tokens)
        assert times is not None
        yield {"runs at once": at_once, "p50": times.p50, "p95": times.p95, "p99": times.p99, "longest": times.most}


def _columns(found: Mapping[int, Sequence[Watched]], begin: str, end: str) -> Row:
    columns: dict[str, float] = {}
    for at_once, runs in found.items():
        times = spread(1000 * run.between(begin, end) for run in runs)
        assert times is not None
        columns |= {f"p50, {at_once} at once": times.p50, f"p95, {at_once} at once": times.p95}
    return columns
