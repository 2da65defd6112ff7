"""What a model call costs: tokens times unit prices, in Decimal; an unknown price gives None, never 0."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, cast

from callboard_runtime.domain.usage import CallUsage
from callboard_runtime.llm.messages import Usage
from callboard_runtime.llm.provider import SCRIPTED, Target


def cost(target: Target, usage: Usage) -> Decimal | None:
    """US dollars for one call. Cached input counts at its own price where one is known, else at the full one."""
    if usage == Usage():
        return Decimal(0)
    if target.input_price is None or target.output_price is None:
        return None
    cached = min(usage.cached_tokens, usage.input_tokens)
    cached_price = target.cached_price if target.cached_price is not None else target.input_price
    fresh = (usage.input_tokens - cached) * target.input_price
    return fresh + cached * cached_price + usage.output_tokens * target.output_price


def call_usage(
    target: Target, usage: Usage, *, estimated: bool, first_token_ms: int | None, latency_ms: int
) -> CallUsage:
    """The metered form of one provider request."""
    return CallUsage(
        provider=target.provider,
        model=target.model,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cached_tokens=min(usage.cached_tokens, usage.input_tokens),
        reasoning_tokens=min(usage.reasoning_tokens, usage.output_tokens),
        cost=cost(target, usage),
        estimated=estimated,
        first_token_ms=first_token_ms,
        latency_ms=latency_ms,
    )


def price_text(price: Any) -> str | None:
    """A unit price as decimal text, for the step that begins."""
    return None if price is None else format(price, "f")


def listed_prices(model: str, provider: str) -> tuple[Decimal | None, Decimal | None, Decimal | None]:
    """Input, output and cached-input price per token from LiteLLM's bundled list; None where it says nothing."""
    from callboard_runtime.llm.libraries import litellm

    if provider == SCRIPTED:
        return None, None, None
    prices = cast(dict[str, dict[str, Any]], litellm.model_cost)  # pyright: ignore[reportUnknownMemberType]
    listed = prices.get(model) or prices.get(model.split("/", 1)[-1]) or {}
    names = ("input_cost_per_token", "output_cost_per_token", "cache_read_input_token_cost")
    first, second, third = (_decimal(listed.get(name)) for name in names)
    return first, second, third


def _decimal(value: Any) -> Decimal | None:
    return None if value is None else Decimal(str(value))
