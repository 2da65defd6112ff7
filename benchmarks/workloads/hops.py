"""Where the time of an unloaded run goes, hop by hop: from the moments that rows, events and the model note anyway."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import datetime

import uvloop

from benchmarks.browsers import Target, run_input, session, visit
from benchmarks.results import Result, Row, Table
from benchmarks.sizes import Sizes
from benchmarks.workloads.chat import STORED
from benchmarks.world import Stack, World, say, token
from callboard_runtime.load.stats import spread

PACE = 10  # ms per token
ROWS = """
SELECT r.created_at AS committed, a.started_at AS started, s.begun_at AS step, s.recorded_at AS recorded,
       r.ended_at AS ended
  FROM runs r JOIN run_attempts a ON a.run_id = r.id JOIN run_steps s ON s.run_id = r.id
 WHERE r.client_run_id = $1 AND s.kind = 'model'
"""
Moments = dict[str, float]

# A hop, and the two moments between which it lies.
HOPS: tuple[tuple[str, str, str], ...] = (
    ("accept: POST, command to the actor, decision, begin of the commit", "posted", "committed"),
    ("wake-up: commit, outbox relay, Celery, worker, StartRun, begin of its commit", "committed", "started"),
    ("start: commit, brief from PostgreSQL, crew and its kick-off, BeginStep", "started", "step"),
    ("request: commit, LiteLLM, HTTP to the model", "step", "model_received"),
    ("(the model: to its first token)", "model_received", "model_first"),
    ("first token: LiteLLM, emitter, Redis, lane, front, browser", "model_first", "first_shown"),
    ("(the model: to its last token)", "model_first", "model_last"),
    ("last token to the browser", "model_last", "last_shown"),
    ("record: last token to the commit of the step", "model_last", "recorded"),
    ("end: to the commit of FinishRun", "recorded", "ended"),
    ("closing event: commit, relay, front, browser", "ended", "closed"),
    ("TTFT as the user sees it", "posted", "first_shown"),
    ("TTFT without the model's own time", "", ""),
    ("whole run as the user sees it", "posted", "closed"),
)


def run(world: World, sizes: Sizes) -> Result:
    say(f"hops: {sizes.hops} runs, one at a time")
    stack = world.chat_stack
    moments = uvloop.run(_collect(world, stack, sizes))
    notes = (
        "One run at a time. Row times are those at which their transactions began, so a commit itself counts to the "
        "hop that follows. All clocks are this machine's.",
    )
    return Result("hops", (Table("Milliseconds per hop", tuple(_rows(moments))),), notes)


async def _collect(world: World, stack: Stack, sizes: Sizes) -> list[Moments]:
    target = Target(f"{stack.url}/api/v1/agent/agui/chat", {"Authorization": f"Bearer {token('bench')}"})
    await stack.query(STORED)
    found: list[Moments] = []
    for number in range(sizes.hops + 2):
        moments = await _one(world, stack, target, sizes.tokens)
        if number >= 2:  # the first ones fill caches
            found.append(moments)
    return found


async def _one(world: World, stack: Stack, target: Target, tokens: int) -> Moments:
    key = uuid.uuid4().hex
    body = run_input(f"{tokens} tokens at {PACE} ms, key:{key}", key)
    async with session() as http:
        posted = time.time()
        seen = await visit(http, target, body, tokens)
        if seen.error:
            raise RuntimeError(f"a run failed: {seen.error}")
        async with http.get(f"{world.model.removesuffix('/v1')}/served/{key}") as response:
            model: dict[str, float] = await response.json()
    [row] = await stack.query(ROWS, key)
    times = {name: value.timestamp() for name, value in row.items() if isinstance(value, datetime)}
    return {
        "posted": posted,
        **times,
        **{f"model_{name}": value for name, value in model.items()},
        "first_shown": posted + seen.arrivals[0],
        "last_shown": posted + seen.arrivals[-1],
        "closed": posted + seen.marks["RUN_FINISHED"],
    }


def _rows(moments: list[Moments]) -> list[Row]:
    rows: list[Row] = []
    for name, begin, end in HOPS:
        between: Callable[[Moments], float] = _ours if not begin else lambda m, b=begin, e=end: m[e] - m[b]
        found = spread(1000 * between(each) for each in moments)
        assert found is not None
        rows.append({"hop": name, "p50 ms": found.p50, "p95 ms": found.p95})
    return rows


def _ours(moments: Moments) -> float:
    return moments["first_shown"] - moments["posted"] - (moments["model_first"] - moments["model_received"])
