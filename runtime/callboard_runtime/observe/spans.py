"""The spans of a worker, under OpenTelemetry's names for generative AI: who was asked, how much it took, never what.

In:  a leg, a provider request, a backend tool's call
Out: spans, and what `observe.worker` counts of the same
"""

from __future__ import annotations

from uuid import UUID

from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.observe import tracing
from callboard_runtime.observe.tracing import NO_SPAN, Span
from callboard_runtime.observe.worker import model_called


def leg_span(
    agent_id: str, session_id: UUID, run_id: UUID, leg: int, attempt: int, asked: str | None, former: str | None
) -> Span:
    """An attempt at a leg, in the trace that woke this worker, else in the one that `asked` for the leg.

    A pause may last for hours, and no span does: a later leg points at the `former` one's trace instead.
    """
    if tracing.current is None:
        return NO_SPAN
    return tracing.span(
        f"invoke_workflow {agent_id}",
        parent=None if tracing.traceparent() else asked,
        links=[former] if former else (),
        attributes={
            "gen_ai.operation.name": "invoke_workflow",
            "gen_ai.workflow.name": agent_id,
            "gen_ai.conversation.id": str(session_id),
            "callboard.run_id": str(run_id),
            "callboard.leg": leg,
            "callboard.attempt": attempt,
        },
    )


def model_span(stage: str, provider: str, model: str) -> Span:
    """One provider request."""
    if tracing.current is None:
        return NO_SPAN
    return tracing.span(
        f"chat {model}",
        kind="client",
        attributes={
            "gen_ai.operation.name": "chat",
            "gen_ai.provider.name": provider,
            "gen_ai.request.model": model,
            "gen_ai.request.stream": True,
            "callboard.stage": stage,
        },
    )


def tool_span(tool: str, call_id: str) -> Span:
    """One call of a backend tool."""
    if tracing.current is None:
        return NO_SPAN
    return tracing.span(
        f"execute_tool {tool}",
        attributes={
            "gen_ai.operation.name": "execute_tool",
            "gen_ai.tool.name": tool,
            "gen_ai.tool.call.id": call_id,
            "gen_ai.tool.type": "function",
        },
    )


def metered(usage: CallUsage, outcome: str) -> CallUsage:
    """Count a provider request that ended, and note on its span what it used; returns `usage`."""
    model_called(usage.provider, usage.model, outcome, usage)
    if tracing.current is not None:
        tracing.current.note(_usage_attributes(usage, outcome))
    return usage


def _usage_attributes(usage: CallUsage, outcome: str) -> dict[str, str | int | float | bool]:
    noted: dict[str, str | int | float | bool] = {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.reasoning.output_tokens": usage.reasoning_tokens,
        "callboard.usage.estimated": usage.estimated,
        "callboard.outcome": outcome,
    }
    if usage.cost is not None:
        noted["callboard.usage.cost_dollars"] = float(usage.cost)
    if usage.first_token_ms is not None:
        noted["gen_ai.response.time_to_first_chunk"] = usage.first_token_ms / 1000
    return noted
