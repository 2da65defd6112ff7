"""What model calls cost: tokens and money, and their sums. Money is Decimal; an unknown price is None, never 0."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict, Field


class CallUsage(BaseModel):
    """One provider request. Cached tokens are part of the input, reasoning tokens part of the output."""

    model_config = ConfigDict(frozen=True)

    provider: str
    model: str
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)
    cached_tokens: int = Field(default=0, ge=0)
    reasoning_tokens: int = Field(default=0, ge=0)
    cost: Decimal | None = None  # US dollars; None: no price is known
    estimated: bool = False  # the provider did not say: cancelled, failed or lost in mid-answer
    first_token_ms: int | None = None
    latency_ms: int | None = None


class UsageTotals(BaseModel):
    """The sum over calls; `cost` is that of the known prices, `unpriced_calls` says how many are missing in it."""

    model_config = ConfigDict(frozen=True)

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    cost: Decimal = Decimal(0)
    unpriced_calls: int = 0
    estimated_calls: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def plus(self, call: CallUsage) -> UsageTotals:
        """These totals with one more call in them."""
        return UsageTotals.model_construct(
            calls=self.calls + 1,
            input_tokens=self.input_tokens + call.input_tokens,
            output_tokens=self.output_tokens + call.output_tokens,
            cached_tokens=self.cached_tokens + call.cached_tokens,
            reasoning_tokens=self.reasoning_tokens + call.reasoning_tokens,
            cost=self.cost + (call.cost or Decimal(0)),
            unpriced_calls=self.unpriced_calls + (call.cost is None),
            estimated_calls=self.estimated_calls + call.estimated,
        )
