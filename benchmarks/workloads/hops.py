"""Where the time of an unloaded run goes, hop by hop: from the moments that rows, events and the model note anyway."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime

import uvloop

from benchmarks.browsers import Target, run_input, session, visit
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.world import Stack, World, say, token
from callboard_runtime.load.stats import spread

PACE = 10  # ms per token
ROWS = """
SELECT r.created_at AS committed, s.begun_at AS step, r.ended_at AS ended
  FROM runs r JOIN run_steps s ON s.run_id = r.id
 WHERE r.client_run_id = $1 AND s.kind = 'model'
"""
Moments = dict[str, float]
Watched = tuple[Moments, list[float]]  # and the seconds that each token took from the model to the browser

# A hop, and the two moments between which it lies.
HOPS: tuple[tuple[str, str, str], ...] = (
    ("accept: POST, command to the actor, decision, begin of the commit", "posted", "committed"),
    ("wake-up: commit, relay, Celery, brief, crew and kick-off, StartRun, begin of its commit", "committed", "step"),
    ("request: commit, LiteLLM, HTTP to the model", "step", "model_received"),
    ("(the model: to its first token)", "model_received", "model_first"),
    ("first token: LiteLLM, emitter, Redis, lane, front, browser", "model_first", "first_shown"),
    ("(the model: to its last token)", "model_first", "model_last"),
    ("last token to the browser", "model_last", "last_shown"),
    ("end: last token to the commit of FinishRun with the answer's record", "model_last", "ended"),
    ("closing event: commit, relay, front, browser", "ended", "closed"),
    ("TTFT as the user sees it", "posted", "first_shown"),
    ("TTFT without the model's own time", "", ""),
    ("whole run as the user sees it", "posted", "closed"),
)


def run(world: World, sizes: Sizes) -> Result:
    stack = world.chat_stack
    found: dict[int, list[Watched]] = {}
    for at_once in (1, sizes.hops_at_once):
        say(f"hops: {sizes.hops} runs, {at_once} at once")
        found[at_once] = uvloop.run(_collect(world, stack, sizes, at_once))
    notes = (
        "Row times are those at which their transactions began, so a commit itself counts to the hop that follows. All "
        "clocks are this machine's.",
    )
    tokens = Table("Milliseconds of every token from the model to the browser", tuple(_token_rows(found)))
    return Result("hops", (Table("Milliseconds per hop", tuple(_rows(found))), tokens), notes)


async def _collect(world: World, stack: Stack, sizes: Sizes, at_once: int) -> list[Watched]:
    target = Target(f"{stack.url}/api/v1/agent/agui/chat", {"Authorization": f"Bearer {token('bench')}"})
    left = itertools.count(1)
    found: list[Watched] = []

    async def user() -> None:
        await _one(world, stack, target, sizes.tokens)  # the first one fills caches
        while next(left) <= sizes.hops:
            found.append(await _one(world, stack, target, sizes.tokens))

    await asyncio.gather(*(user() for _ in range(at_once)))
    return found


async def _one(world: World, stack: Stack, target: Target, tokens: int) -> Watched:
    key = uuid.uuid4().hex
    body = run_input(f"{tokens} tokens at {PACE} ms, key:{key}", key)
    async with session() as http:
        posted = time.time()
        seen = await visit(http, target, body, tokens)
        if seen.error:
            raise RuntimeError(f"a run failed: {seen.error}")
        async with http.get(f"{world.model.removesuffix('/v1')}/served/{key}") as response:
            model = await response.json()
    [row] = await stack.query(ROWS, key)
    times = {name: value.timestamp() for name, value in row.items() if isinstance(value, datetime)}
    sent: list[float] = model["sent"]
    shown = [posted + at for at, text in zip(seen.arrivals, seen.text, strict=True) for _ in text.split()]
    moments = {
        "posted": posted,
        **times,
        "model_received": model["received"],
        "model_first": sent[0],
        "model_last": sent[-1],
        "first_shown": shown[0],
        "last_shown": shown[-1],
        "closed": posted + seen.marks["RUN_FINISHED"],
    }
    return moments, [later - earlier for earlier, later in zip(sent, shown, strict=True)]


def _token_rows(found: Mapping[int, list[Watched]]) -> Iterator[Row]:
    for at_once, runs in found.items():
        times = spread(1000 * each for _, tokens in runs for each in tokens)
        assert times is not None
        yield {"runs at once": at_once, "p50": times.p50, "p95": times.p95, "p99": times.p99, "longest": times.most}


def _rows(found: Mapping[int, list[Watched]]) -> list[Row]:
    return [{"hop": name, **_columns(found, begin, end)} for name, begin, end in HOPS]


def _columns(found: Mapping[int, list[Watched]], begin: str, end: str) -> Row:
    columns: dict[str, float] = {}
    for at_once, runs in found.items():
        times = spread(1000 * (each[end] - each[begin] if begin else _ours(each)) for each, _ in runs)
        assert times is not None
        columns |= {f"p50, {at_once} at once": times.p50, f"p95, {at_once} at once": times.p95}
    return columns


def _ours(moments: Moments) -> float:
    return moments["first_shown"] - moments["posted"] - (moments["model_first"] - moments["model_received"])
