"""What a worker counts: legs, model calls, tool calls, replays, and what it sends to the readers."""

from __future__ import annotations

from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.observe.metrics import SLOW, Bounded, counter, gauge, histogram

LEGS = counter(
    "callboard_worker_legs_total", "Legs that this process executed, by how they ended.", "outcome", on="worker"
)
LEGS_ACTIVE = gauge("callboard_worker_legs_active", "Legs in execution.", on="worker")
SLOTS = gauge("callboard_worker_slots", "Legs that this process takes at once.", on="worker")
MODEL_CALLS = counter(
    "callboard_model_calls_total", "Provider requests, by how they ended.", "provider", "model", "outcome", on="worker"
)
MODEL_TOKENS = counter(
    "callboard_model_tokens_total",
    "Tokens; `cached` is part of `input`, `reasoning` of `output`.",
    "provider",
    "model",
    "kind",
    on="worker",
)
MODEL_COST = counter(
    "callboard_model_cost_dollars_total",
    "US dollars of the calls whose price is known.",
    "provider",
    "model",
    on="worker",
)
MODEL_UNPRICED = counter(
    "callboard_model_unpriced_calls_total", "Calls whose price is not known.", "provider", "model", on="worker"
)
MODEL_SECONDS = histogram(
    "callboard_model_call_seconds",
    "Provider requests, from sending to the last token.",
    "provider",
    "model",
    on="worker",
    buckets=SLOW,
)
MODEL_FIRST_TOKEN = histogram(
    "callboard_model_first_token_seconds",
    "From sending a provider request to its first token.",
    "provider",
    "model",
    on="worker",
    buckets=SLOW,
)
TOOL_CALLS = counter(
    "callboard_tool_calls_total", "Backend tool calls: `ok`, `failed`.", "tool", "outcome", on="worker"
)
TOOL_SECONDS = histogram("callboard_tool_seconds", "Backend tool calls.", "tool", on="worker", buckets=SLOW)
PAUSES = counter(
    "callboard_tool_pauses_total", "Calls that a run paused for, by who has to answer.", "mode", on="worker"
)
REPLAYED = counter("callboard_replayed_steps_total", "Steps answered from the journal.", "kind", on="worker")
EVENTS = counter("callboard_events_emitted_total", "Events sent live.", on="worker")
BATCHES = counter("callboard_event_batches_total", "Live batches, by what the Redis tail said.", "tail", on="worker")

_batches = {tail: BATCHES.labels(tail) for tail in ("OK", "FENCED", "BEHIND", "EMPTY", "AWAY")}
_model = Bounded(100)
_tool = Bounded(200)


def model_called(provider: str, model: str, outcome: str, usage: CallUsage) -> None:
    """Count one provider request."""
    labels = (provider, _model(model))
    MODEL_CALLS.labels(*labels, outcome).inc()
    tokens = {
        "input": usage.input_tokens,
        "output": usage.output_tokens,
        "cached": usage.cached_tokens,
        "reasoning": usage.reasoning_tokens,
    }
    for kind, count in tokens.items():
        if count:
            MODEL_TOKENS.labels(*labels, kind).inc(count)
    if usage.cost is None:
        MODEL_UNPRICED.labels(*labels).inc()
    else:
        MODEL_COST.labels(*labels).inc(float(usage.cost))
    if usage.latency_ms is not None:
        MODEL_SECONDS.labels(*labels).observe(usage.latency_ms / 1000)
    if usage.first_token_ms is not None:
        MODEL_FIRST_TOKEN.labels(*labels).observe(usage.first_token_ms / 1000)


def count_batch(tail: str, events: int) -> None:
    """Count a batch by what the tail said, `AWAY` without one; `events` of it are sent on."""
    _batches[tail].inc()
    EVENTS.inc(events)


def tool_called(tool: str, *, failed: bool, seconds: float) -> None:
    """Count one execution of a backend tool."""
    name = _tool(tool)
    TOOL_CALLS.labels(name, "failed" if failed else "ok").inc()
    TOOL_SECONDS.labels(name).observe(seconds)
